"""A translator against transformers' own generate, and what is refused before anything is translated."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig, M2M100Tokenizer

from mmscale.config.translation import TranslationConfig
from mmscale.errors import UserError
from mmscale.models.places import resolve_path
from mmscale.translation.questions import require_languages
from mmscale.translation.translator import TranslatorTokenizer, load_translator
from tests.translation.tiny import LANGUAGES, TEXTS, m2m100, m2m100_tokenizer, nllb, t5

CPU = torch.device("cpu")
FLORES = {"sw": "swh_Latn", "de": "deu_Latn", "en": "eng_Latn"}
LIMITS = {"max_source_tokens": 40, "max_new_tokens": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An NLLB whose own generation settings are others than ours."""
    folder = nllb(tmp_path_factory.mktemp("nllb"))
    own = {"num_beams": 5, "no_repeat_ngram_size": 1, "max_length": 7, "forced_bos_token_id": 9, "length_penalty": 3.0}
    ids = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**ids, **own}))
    return folder


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory, tinyworld_tokenizers):
    return t5(tmp_path_factory.mktemp("t5"), tinyworld_tokenizers[1])


@pytest.mark.parametrize("beams", [1, 3])
def test_nllb_batched_is_transformers_own_generate_one_at_a_time(folder, beams):
    translator = load_translator(TranslationConfig(path=str(folder), beams=beams, **LIMITS), CPU)
    together = translator.translate(TEXTS, LANGUAGES)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model.generation_config = GenerationConfig(decoder_start_token_id=2, eos_token_id=2, pad_token_id=1)
    for text, code, made in zip(TEXTS, LANGUAGES, together, strict=True):
        tokenizer.src_lang = FLORES[code]
        read = tokenizer(text, return_tensors="pt", truncation=True, max_length=40)
        first = tokenizer.convert_tokens_to_ids("eng_Latn")
        ids = model.generate(**read, forced_bos_token_id=first, num_beams=beams, max_new_tokens=21)
        assert made.text == tokenizer.decode(ids[0], skip_special_tokens=True).strip()
        assert made.finished == (int(ids[0, -1]) == 2) and not made.source_cut
    assert len({made.text for made in together}) == len(TEXTS) and len({made.finished for made in together}) == 2


def test_m2m100_whose_codes_stand_behind_its_vocabulary(tmp_path):
    """As the published checkpoint is: 418M and 1.2B know a hundred languages, and no Telugu."""
    tokenizer = M2M100Tokenizer.from_pretrained(m2m100_tokenizer(tmp_path))
    m2m100(tmp_path, tokenizer.get_lang_id("zu") + 9)
    config = TranslationConfig(path=str(tmp_path), target="de", **LIMITS)
    texts, codes = ["mbili na moja ni tatu", "ni moja", "na tatu na mbili"], ["sw", "sw", "fr"]
    together = load_translator(config, CPU).translate(texts, codes)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    for text, code, made in zip(texts, codes, together, strict=True):
        tokenizer.src_lang = code
        first = tokenizer.get_lang_id("de")
        ids = model.generate(**tokenizer(text, return_tensors="pt"), forced_bos_token_id=first, max_new_tokens=21)
        said = tokenizer.decode(ids[0], skip_special_tokens=True)
        assert "__de__" in said, "transformers leaves codes in the text"
        assert made.text == re.sub("__[a-z]+__", "", said).strip()
    with pytest.raises(UserError, match=r"no code for language 'te' \(tel_Telu or __te__\)"):
        require_languages(config, ["sw", "te"])
    m2m100(tmp_path, tokenizer.get_lang_id("sw"))
    with pytest.raises(
        UserError, match="the tokenizer counts to [0-9]+ and the model has [0-9]+ tokens: they do not belong"
    ):
        load_translator(config, CPU).translate(texts, codes)


def test_t5_reads_its_prefix(t5_folder):
    prefix = "translate {source} to {target}: "
    translator = load_translator(
        TranslationConfig(path=str(t5_folder), prefix=prefix, target="de", max_new_tokens=20), CPU
    )
    together = translator.translate(TEXTS[:2], ["sw", "en"])
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(t5_folder), AutoTokenizer.from_pretrained(t5_folder)
    for text, name, made in zip(TEXTS, ("Swahili", "English"), together, strict=False):
        read = tokenizer(f"translate {name} to German: {text}", return_tensors="pt")
        ids = model.generate(input_ids=read["input_ids"], attention_mask=read["attention_mask"], max_new_tokens=20)
        assert made.text == tokenizer.decode(ids[0], skip_special_tokens=True).strip()


def test_what_is_cut_is_counted(folder):
    short = TranslationConfig(path=str(folder), max_source_tokens=12, max_new_tokens=3)
    made = load_translator(short, CPU).translate(TEXTS, LANGUAGES)
    read = TranslatorTokenizer(short).encode(TEXTS, LANGUAGES)
    whole = [len(one.ids) for one in TranslatorTokenizer(TranslationConfig(path=str(folder))).encode(TEXTS, LANGUAGES)]
    cut = [one.cut for one in read]
    assert cut == [length > 12 for length in whole] and set(cut) == {True, False}
    assert [len(one.ids) for one in read] == [min(12, length) for length in whole]
    assert all(one.ids[-1] == 2 for one in read), "it still ends in </s>"
    assert cut == [one.source_cut for one in made] and not all(one.finished for one in made)


def test_a_language_that_the_translator_does_not_know_is_told_before_weights_are_looked_for(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    config = TranslationConfig(path=str(tmp_path))
    require_languages(config, ["sw", "de", "en"])
    with pytest.raises(
        UserError, match=r"has no code for language 'te' \(tel_Telu or __te__\): leave that language out"
    ):
        require_languages(config, ["sw", "te"])
    with pytest.raises(UserError, match="no code for language 'fr'"):
        require_languages(config.model_copy(update={"target": "fr"}), ["sw"])
    with pytest.raises(UserError, match=r"no code for language 'sw' \(swc_Latn\)"):
        require_languages(config.model_copy(update={"codes": {"sw": "swc_Latn"}}), ["sw"])


def test_codes_name_a_language_otherwise(tmp_path):
    folder = nllb(tmp_path, "zho_Hant", "eng_Latn")
    plain = TranslationConfig(path=str(folder))
    with pytest.raises(UserError, match="language 'zh' .zho_Hans"):
        require_languages(plain, ["zh"])
    (read,) = TranslatorTokenizer(plain.model_copy(update={"codes": {"zh": "zho_Hant"}})).encode(["Tom ☃"], ["zh"])
    assert read.unknown and read.ids[0] == AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("zho_Hant")


def test_a_prefix_whose_token_for_a_language_is_none_is_refused(t5_folder):
    config = TranslationConfig(path=str(t5_folder), prefix="<2{target_code}> ")
    with pytest.raises(UserError, match=r"has no token <2en> of the prefix"):
        require_languages(config, ["sw"])


def edited(folder, name, **values):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **values}))


BAD = {
    "a decoder": (lambda f: shutil.copytree(resolve_path("tinyworld:llm"), f, dirs_exist_ok=True), {}, "has model type 'llama', which is no translator"),
    "a prefix": (lambda f: None, {"prefix": "translate: "}, "would translate the prefix too: take translation.prefix out"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), {}, "holds no|no file|lacks"),
    "git-lfs": (lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"), {}, "git-lfs"),
    "another size": (lambda f: edited(f, "config.json", d_model=16), {}, "has shape"),
    "one layer more": (lambda f: edited(f, "config.json", decoder_layers=3), {}, "lacks the tensor"),
    "one layer less": (lambda f: edited(f, "config.json", decoder_layers=1), {}, "has no place for"),
    "long texts": (lambda f: None, {"max_source_tokens": 65}, "max_source_tokens=65 exceeds the 64 positions"),
    "long translations": (lambda f: None, {"max_new_tokens": 65}, "max_new_tokens=65 exceeds the 64 positions"),
    "a plain tokenizer": (
        lambda f: edited(f, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast"), {}, "does not write the code"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_translator_is_refused_in_one_sentence(folder, tmp_path, case):
    change, settings, said = BAD[case]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    change(tmp_path)
    config = TranslationConfig(path=str(tmp_path), **{**LIMITS, **settings})
    with pytest.raises(UserError) as told:
        require_languages(config, ["sw"])
        load_translator(config, CPU)
    assert re.search(said, str(told.value)) and "\n" not in str(told.value)


def test_a_t5_without_a_prefix_and_a_prefix_of_unknown_fields_are_refused(t5_folder):
    with pytest.raises(UserError, match="knows its task by a text before each question: set translation.prefix"):
        TranslatorTokenizer(TranslationConfig(path=str(t5_folder)))
    with pytest.raises(UserError, match="whose numbers leave float16's range: set translation.dtype=bfloat16"):
        TranslatorTokenizer(TranslationConfig(path=str(t5_folder), prefix="x", dtype="float16"))
    with pytest.raises(ValidationError, match="a prefix may name source, target, source_code, target_code, not {lang}"):
        TranslationConfig(path="x", prefix="{lang}: ")
