"""Languages by Unicode's CLDR and ISO 639-3: any BCP 47 tag or code, its name, its script, and its code in FLORES-200."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

_TAG = re.compile(r"([a-z]{2,3})(?:-([a-z]{4}))?(?:-(?:[a-z]{2}|\d{3}))?", re.IGNORECASE)
_CODE = re.compile("[a-z]{2,3}")
_NO_LANGUAGE = frozenset(("und", "mul", "mis", "zxx", "art"))
_SCRIPT_NAMES = {
    "Kore": "HANGUL", "Hang": "HANGUL", "Jpan": "CJK", "Hans": "CJK", "Hant": "CJK", "Hani": "CJK", "Beng": "BENGALI", "Orya": "ORIYA",
    "Cans": "CANADIAN", "Nkoo": "NKO", "Mtei": "MEETEI", "Olck": "OL", "Aran": "ARABIC",
}  # fmt: skip
"""ISO 15924 -> how Unicode begins the names of its letters, where CLDR's English name of it does not begin so."""
_TWI = {"tw": "tw", "twi": "tw"}
"""CLDR takes it for Akan, the table of the benchmarks does not."""
_RETIRED = {"ajp": "South Levantine Arabic"}
"""Codes of FLORES-200 that ISO 639-3 has given up since."""
_ONE_OF_SEVERAL = {"ff": "fuv_Latn", "no": "nob_Latn", "ps": "pbt_Arab"}
"""Languages of which FLORES-200 has one variety alone, under that one's code."""
_SAME_SCRIPT = {"Kore": "Hang"}
FLORES = """
ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn amh_Ethi apc_Arab arb_Arab ars_Arab ary_Arab
arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn bel_Cyrl bem_Latn ben_Beng
bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn cjk_Latn ckb_Arab crh_Latn
cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn est_Latn eus_Latn ewe_Latn fao_Latn
pes_Arab fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gla_Latn gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn
hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn
jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab kas_Deva kat_Geor knc_Arab knc_Latn kaz_Cyrl kbp_Latn kea_Latn
khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn kon_Latn kor_Hang kmr_Latn lao_Laoo lvs_Latn lij_Latn lim_Latn lin_Latn
lit_Latn lmo_Latn ltg_Latn ltz_Latn lua_Latn lug_Latn luo_Latn lus_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Latn
mkd_Cyrl plt_Latn mlt_Latn mni_Beng khk_Cyrl mos_Latn mri_Latn zsm_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva
nso_Latn nus_Latn nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pol_Latn por_Latn prs_Arab pbt_Arab
quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Beng scn_Latn shn_Mymr sin_Sinh slk_Latn slv_Latn smo_Latn
sna_Latn snd_Arab som_Latn sot_Latn spa_Latn als_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn szl_Latn
tam_Taml tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi taq_Latn taq_Tfng tpi_Latn tsn_Latn tso_Latn tuk_Latn
tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn vec_Latn vie_Latn war_Latn wol_Latn
xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zul_Latn
"""
"""The codes of FLORES-200, which NLLB's tokenizers know."""


@dataclass(frozen=True)
class Tag:
    """A language as BCP 47 writes it: the shortest code and, where it is not the usual one, its script."""

    base: str
    script: str
    """ISO 15924; empty where CLDR knows none."""
    code: str


@functools.cache
def _aliases() -> Mapping[str, str]:
    """Codes that CLDR writes otherwise: kor -> ko, twi -> ak."""
    from babel.core import get_global  # imports slowly

    aliases: Mapping[str, str] = get_global("language_aliases")
    return aliases


@functools.cache
def _usual_scripts() -> Mapping[str, str]:
    from babel.core import get_global

    likely: Mapping[str, str] = get_global("likely_subtags")
    return likely


@functools.cache
def english_names() -> Mapping[str, str]:
    """CLDR's English names of about 670 languages by their codes."""
    from babel import Locale

    return {
        code: name
        for code, name in Locale("en").languages.items()
        if _CODE.fullmatch(code) and code not in _NO_LANGUAGE
    }


def _shortest(base: str) -> str:
    """The code that CLDR prefers, unless that says less: another dialect, or a region."""
    flores = {code.split("_")[0] for code in FLORES.split()}
    preferred = _TWI.get(base) or _aliases().get(base, base)
    kept = "_" in preferred or (base in flores and preferred in flores)
    return base if kept else preferred


def _usual_script(tag: str) -> str:
    parts = _usual_scripts().get(tag, "").split("_")
    return _SAME_SCRIPT.get(parts[1], parts[1]) if len(parts) > 1 else ""


def parse(text: str) -> Tag | None:
    """The language of a BCP 47 tag, an ISO 639-3 or a FLORES-200 code; None for what is none of them."""
    match = _TAG.fullmatch(text.replace("_", "-"))
    if match is None or match[1].lower() in _NO_LANGUAGE:
        return None
    base = _shortest(match[1].lower())
    if english_name(base) is None:
        return None
    written = (base, match[1].lower(), _aliases().get(base, base))
    usual = next(filter(None, map(_usual_script, written)), "")
    region = text.replace("_", "-").split("-")[-1].upper()
    script = match[2].title() if match[2] else _usual_script(f"{base}_{region}") or usual
    script = _SAME_SCRIPT.get(script, script)
    if match[2] and script_name(script) == "":
        return None
    return Tag(base, script, base if script in (usual, "") else f"{base}-{script}")


@functools.lru_cache(maxsize=4096)
def english_name(base: str) -> str | None:
    """CLDR's English name of a code, else ISO 639-3's; None where neither has it."""
    if base in english_names() or base in _RETIRED:
        return _RETIRED.get(base) or english_names()[base]
    import pycountry  # its table is large

    known = pycountry.languages.get(alpha_3=base) if len(base) == 3 else pycountry.languages.get(alpha_2=base)
    return None if known is None else known.name.split(" (")[0]


def is_common(text: str) -> bool:
    """Whether a tag's language is in CLDR or FLORES-200: of the 8000 codes of ISO 639-3 most words of three letters are one."""
    tag = parse(text)
    return tag is not None and (tag.base in english_names() or flores_code(tag) != "")


def name_of(tag: Tag) -> str:
    """The English name; with its script where that is not the usual one."""
    from babel import Locale

    name = english_name(tag.base) or tag.base
    return name if tag.code == tag.base else f"{name} ({Locale('en').scripts.get(tag.script, tag.script)})"


def script_name(script: str) -> str:
    """The first word of Unicode's names of a script's letters; empty for no script, or one that CLDR has not."""
    from babel import Locale

    return _SCRIPT_NAMES.get(script) or Locale("en").scripts.get(script, "").split(" ")[0].upper().replace("’", "")


@functools.cache
def _of_flores() -> dict[str, str]:
    """Our code -> FLORES-200's."""
    tags = ((parse(flores), flores) for flores in FLORES.split())
    return _ONE_OF_SEVERAL | {tag.code: flores for tag, flores in tags if tag is not None}


def flores_code(tag: Tag) -> str:
    """The code in FLORES-200; empty where it has none."""
    return _of_flores().get(tag.code, "")


@functools.lru_cache(maxsize=4096)
def other_codes(base: str) -> tuple[str, ...]:
    """What else a language's code is written as, such as he: heb, iw; nb: no, nob."""
    beside = {"nb": ("no",), "nso": ("ns",)}
    return (*beside.get(base, ()), *sorted(code for code, preferred in _aliases().items() if preferred == base))
