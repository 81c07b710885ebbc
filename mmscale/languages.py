"""Languages: code, English name, script, and the code each encoder family expects.

Those of the benchmarks are in a table; any other comes from Unicode's CLDR and ISO 639-3 (mmscale/cldr.py).
"""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass

from mmscale import cldr
from mmscale.errors import UserError, unknown_name


@dataclass(frozen=True)
class Language:
    code: str
    """ISO 639-1 code (Haitian, Quechua, … likewise), else 639-3; behind it a script that is not the usual one: zh-Hant."""
    name: str
    """English name, as the prompts of question alignment spell it."""
    script: str
    """Unicode script name as in `unicodedata.name`, of most of its letters."""
    nllb: str
    """FLORES-200 code that NLLB tokenizers know; empty where there is none."""


_TABLE = """
am Amharic ETHIOPIC amh_Ethi
ar Arabic ARABIC arb_Arab
bg Bulgarian CYRILLIC bul_Cyrl
bn Bengali BENGALI ben_Beng
de German LATIN deu_Latn
ee Ewe LATIN ewe_Latn
el Greek GREEK ell_Grek
en English LATIN eng_Latn
es Spanish LATIN spa_Latn
et Estonian LATIN est_Latn
fr French LATIN fra_Latn
ha Hausa LATIN hau_Latn
hi Hindi DEVANAGARI hin_Deva
ht Haitian LATIN hat_Latn
id Indonesian LATIN ind_Latn
ig Igbo LATIN ibo_Latn
it Italian LATIN ita_Latn
ja Japanese CJK jpn_Jpan
lg Luganda LATIN lug_Latn
ln Lingala LATIN lin_Latn
nl Dutch LATIN nld_Latn
om Oromo LATIN gaz_Latn
pl Polish LATIN pol_Latn
pt Portuguese LATIN por_Latn
qu Quechua LATIN quy_Latn
ru Russian CYRILLIC rus_Cyrl
rw Kinyarwanda LATIN kin_Latn
sn Shona LATIN sna_Latn
st Sotho LATIN sot_Latn
sw Swahili LATIN swh_Latn
ta Tamil TAMIL tam_Taml
te Telugu TELUGU tel_Telu
th Thai THAI tha_Thai
tr Turkish LATIN tur_Latn
tw Twi LATIN twi_Latn
ur Urdu ARABIC urd_Arab
vi Vietnamese LATIN vie_Latn
wo Wolof LATIN wol_Latn
xh Xhosa LATIN xho_Latn
yo Yoruba LATIN yor_Latn
zh Chinese CJK zho_Hans
zu Zulu LATIN zul_Latn
"""

LANGUAGES: dict[str, Language] = {
    fields[0]: Language(*fields) for fields in (line.split() for line in _TABLE.strip().splitlines())
}

_OTHER_NAMES: dict[str, str] = {
    # MindMerger's and X-CSR's own
    "flemish": "nl",
    "jap": "ja",
    # ISO 639-2 and 639-3 codes that differ from FLORES-200's
    "ara": "ar", "cmn": "zh", "chi": "zh", "ekk": "et", "dut": "nl", "fre": "fr", "ger": "de", "gre": "el",
    "orm": "om", "que": "qu", "swa": "sw",
    # names with more to them
    "haitian creole": "ht", "mandarin": "zh", "modern greek": "el",
}  # fmt: skip
_NAMES: dict[str, str] = _OTHER_NAMES | {
    name: code
    for code, known in LANGUAGES.items()
    for name in (code, known.name.lower(), known.nllb.lower(), known.nllb.split("_")[0])
}

MGSM_LANGUAGES: tuple[str, ...] = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")
"""Order of the columns in the MGSM tables (Shi et al. 2022)."""


def language(code: str) -> Language:
    """The language of a code: BCP 47, ISO 639-3 or FLORES-200; UserError naming the nearest when there is none."""
    known = LANGUAGES.get(code) or _opened(code)
    if known is None:
        raise _unknown(code)
    return known


def language_name(code: str) -> str:
    """The English name of a language's code; what is none stays as it is."""
    known = LANGUAGES.get(code) or _opened(code)
    return code if known is None else known.name


@functools.lru_cache(maxsize=4096)
def _opened(code: str) -> Language | None:
    """A language that the table writes otherwise, or has not."""
    tag = cldr.parse(code)
    if tag is None:
        return None
    listed = _NAMES.get(tag.code) or (_NAMES.get(tag.base) if tag.code == tag.base else None)
    if listed is not None:
        return LANGUAGES[listed]
    return Language(tag.code, cldr.name_of(tag), cldr.script_name(tag.script), cldr.flores_code(tag))


def _unknown(code: str) -> UserError:
    """The error for what is no language's code, naming that of the language whose name it is, or nearly."""
    by_name = {name.lower(): near for near, name in cldr.english_names().items()} | _NAMES
    near = difflib.get_close_matches(code.lower(), by_name, n=1, cutoff=0.8) if len(code) > 3 else []
    if near:
        return UserError(
            f"unknown language code '{code}': did you mean '{by_name[near[0]]}' ({language(by_name[near[0]]).name})?"
        )
    return unknown_name("language code", code, LANGUAGES)


@functools.cache
def code_of_name() -> dict[str, str]:
    """CLDR's English names in small letters -> code."""
    return {name.lower(): language(code).code for code, name in cldr.english_names().items()}


def find_code(name: str) -> str | None:
    """The code of a language however a data file writes it, or None: sw, Swahili, swh, swh_Latn, sw-KE,
    Swahili (macrolanguage)."""
    plain = name.split("(")[0].strip().lower().replace("_", "-")
    listed = _NAMES.get(plain.replace("-", "_")) or _NAMES.get(plain.split("-")[0])
    if listed is not None:
        return listed
    known = _opened(plain) if cldr.is_common(plain) else None
    return known.code if known is not None else code_of_name().get(plain.replace("-", " "))
