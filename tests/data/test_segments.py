"""BOS and EOS by us, exactly one of each; prompts cut inside the question only; truncated targets without EOS."""

from __future__ import annotations

import copy

import pytest
from transformers import LlamaConfig

from mmscale import registry
from mmscale.config.data import PackingConfig
from mmscale.data import chat_rendering
from mmscale.data.chat import in_chat_format
from mmscale.data.packing import pack
from mmscale.data.prompts import require_readable, template
from mmscale.data.records import Entailment, MultipleChoice, ParallelSentence, Problem
from mmscale.data.segments import ExampleTokenizer, special_tokens
from mmscale.errors import UserError
from tests.conftest import PUBLIC_TOKENIZERS

QUESTION = "Bata wa Janet hutaga mayai 16 kila siku. 珍妮特的鸭子每天下 16 个蛋。"
PROBLEM = Problem(
    question=QUESTION, language="sw", answer="18", rationale="Janet sells 16 - 3 - 4 = 9 eggs.\n#### 9", origin="file:1"
)


def limits(**changes: int) -> PackingConfig:
    return PackingConfig(global_batch_size=1, **changes)


def tokenize(loaded, name: str, record=PROBLEM, **changes: int):
    tokenizer, config = loaded
    return ExampleTokenizer(tokenizer, special_tokens(tokenizer, config), template(name), limits(**changes))([record])[
        0
    ]


@pytest.mark.parametrize("name", PUBLIC_TOKENIZERS)
@pytest.mark.parametrize("prompt", ["alpaca", "mindmerger_math", "mcot", "proxy_gsm"])
def test_exactly_one_bos_and_one_eos(public_tokenizer, name, prompt):
    tokenizer, config = public_tokenizer(name)
    specials = special_tokens(tokenizer, config)
    row = pack([tokenize((tokenizer, config), prompt)], specials)
    labels = [label for label in row.labels.tolist() if label >= 0]
    everything = [*row.token_ids.tolist(), labels[-1]]
    assert everything.count(specials.bos) == 1 and everything[0] == specials.bos
    assert everything.count(specials.eos) == 1 and labels[-1] == specials.eos


@pytest.mark.parametrize("name", PUBLIC_TOKENIZERS)
@pytest.mark.parametrize("prompt", ["alpaca", "mindmerger_math", "mcot", "proxy_gsm"])
def test_prompt_and_target_decode_to_the_template(public_tokenizer, name, prompt):
    loaded = public_tokenizer(name)
    example = tokenize(loaded, prompt)
    chosen = template(prompt)
    assert loaded[0].decode(example.prompt_ids) == chosen.prompt(PROBLEM).text
    assert loaded[0].decode(example.target_ids[:-1]).strip() == PROBLEM.rationale
    if chosen.joined:
        assert (
            loaded[0].decode([*example.prompt_ids, *example.target_ids[:-1]])
            == chosen.prompt(PROBLEM).text + PROBLEM.rationale
        )


@pytest.mark.parametrize("name", PUBLIC_TOKENIZERS)
def test_prompt_at_generation_equals_prompt_in_training(public_tokenizer, name):
    tokenizer, config = public_tokenizer(name)
    make = ExampleTokenizer(tokenizer, special_tokens(tokenizer, config), template("alpaca"), limits())
    assert make([PROBLEM])[0].prompt_ids == make([PROBLEM], with_target=False)[0].prompt_ids


@pytest.mark.parametrize("name", PUBLIC_TOKENIZERS)
def test_a_long_prompt_is_cut_inside_the_question(public_tokenizer, name):
    loaded = public_tokenizer(name)
    record = Problem(question=QUESTION * 40, language="sw", answer="1", rationale="x", origin="file:1")
    example = tokenize(loaded, "alpaca", record, max_prompt_tokens=100)
    text = loaded[0].decode(example.prompt_ids)
    before, after = template("alpaca").prompt(record).before, template("alpaca").prompt(record).after
    assert example.truncated and 90 <= len(example.prompt_ids) <= 100
    assert text.startswith(before + "Bata wa Janet") and text.endswith(after)


def test_a_truncated_target_has_no_eos(public_tokenizer):
    example = tokenize(public_tokenizer("llama2"), "alpaca", max_target_tokens=5)
    assert example.truncated and len(example.target_ids) == 5 and 2 not in example.target_ids


def test_fixed_text_that_does_not_fit_is_refused(public_tokenizer):
    with pytest.raises(UserError, match=r"file:1: the prompt's fixed text alone has \d+ tokens"):
        tokenize(public_tokenizer("llama2"), "alpaca", max_prompt_tokens=8)


def test_an_empty_target_is_refused(public_tokenizer):
    with pytest.raises(UserError, match="file:9: the target is empty"):
        tokenize(public_tokenizer("llama2"), "alpaca", Problem(question="q", language="en", origin="file:9"))


def test_qwen_takes_its_bos_from_the_model_config(public_tokenizer):
    tokenizer, config = public_tokenizer("qwen")
    assert tokenizer.bos_token_id is None
    assert special_tokens(tokenizer, config).bos == 151643
    with pytest.raises(UserError, match="names a BOS token"):
        special_tokens(tokenizer)


def test_templates_are_the_published_bytes():
    """Each written out once more by hand from the papers' repositories."""
    pair = ParallelSentence("Frage?", "Question?", "de", "en")
    choice = MultipleChoice(
        question="Where?", choices=tuple(zip("ABCDE", "vwxyz", strict=True)), language="en", answer="B"
    )
    alpaca = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    assert template("question_translation").prompt(pair).text == (
        alpaca
        + "\n\n### Instruction:\nTranslate the following sentences from German to English. Frage?\n\n### Response:"
    )
    problem = Problem(question="Q", language="bn")
    assert template("alpaca").prompt(problem).text == alpaca + "\n\n### Instruction:\nQ\n\n### Response:"
    assert template("mindmerger_math").prompt(problem).text == (
        alpaca + "\n\n### Instruction:\nQ\n\n### Response: Let's think step by step."
    )
    assert template("mcot").prompt(problem).text == "Question:\nQ\nAnswer:\nআসুন ধাপে ধাপে চিন্তা করি।\n"
    assert template("xcsqa").prompt(choice).text == "Where?\nOptions:A. v\tB. w\tC. x\tD. y\tE. z\nAnswer:"
    assert template("proxy_gsm").prompt(problem).text == "Answer the following question.\n\nQuestion: Q\nAnswer:"
    assert template("mapping").prompt(pair).text == ""


def test_a_prompt_for_another_kind_of_record_is_refused():
    with pytest.raises(UserError, match="needs ParallelSentence rows, not Problem rows"):
        template("question_translation").prompt(PROBLEM)


@pytest.mark.parametrize("room", [512, 60, 20])
def test_prompt_and_target_cut_together_as_question_alignment_was_published(public_tokenizer, room):
    """BOS, prompt, target and EOS as one text of at most so many tokens; a long prompt leaves nothing of its target."""
    tokenizer, config = public_tokenizer("llama2")
    specials = special_tokens(tokenizer, config)
    pair = ParallelSentence(QUESTION, "Janet's ducks lay 16 eggs.", "sw", "en")
    chosen = template("question_translation_published")
    make = ExampleTokenizer(tokenizer, specials, chosen, limits(max_joined_tokens=room))
    (example,) = make([pair])
    text = tokenizer(chosen.prompt(pair).text + pair.target, add_special_tokens=False)["input_ids"]
    wanted = [*text, specials.eos][: room - 1]
    assert [*example.prompt_ids, *example.target_ids] == wanted and example.truncated == (len(text) + 2 > room)
    assert tokenizer.decode(example.prompt_ids) == chosen.prompt(pair).text or not example.target_ids
    row = pack([example], specials)
    assert row.target_tokens == len(example.target_ids) and len(row.labels) <= room
    (asked,) = make([pair], with_target=False)
    assert tokenizer.decode(asked.prompt_ids) == chosen.prompt(pair).text, "answers are generated from whole prompts"


def test_question_alignment_spells_swahili_as_iso_639_on_request():
    pair = ParallelSentence("moja", "one", "sw", "en")
    published, ours = (template(f"question_translation{more}").prompt(pair).text for more in ("_published", ""))
    assert "sentences from Swahili (macrolanguage) to English. moja" in published
    assert published.replace(" (macrolanguage)", "") == ours


def test_every_template_refuses_records_that_it_would_not_show_whole():
    records = [
        Problem(question="q", language="en"),
        MultipleChoice(question="q", choices=(("A", "a"),), language="en"),
        Entailment("p", "h", "en"),
        ParallelSentence("a", "b", "sw", "en"),
    ]
    for name, one in ((name, template(name)) for name in registry.names("prompts")):
        for record in records:
            if type(record) is one.reads:
                require_readable(one, [record])
            else:
                with pytest.raises(UserError, match=f"prompt {name} reads"):
                    require_readable(one, [record])


def test_a_token_that_the_model_has_no_row_for_is_refused_where_a_text_spells_it(tinyworld_tokenizers):
    """A padding token that only the tokenizer knows: embedded, it is an IndexError, or the end of a GPU's context."""
    tokenizer = copy.deepcopy(tinyworld_tokenizers[0])
    specials = special_tokens(tokenizer, LlamaConfig(vocab_size=len(tokenizer)))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    make = ExampleTokenizer(tokenizer, specials, template("tinyworld_math"), limits())
    for question, rationale in (("How many [PAD]?", "2"), ("How many?", "2 [PAD]")):
        with pytest.raises(
            UserError, match=r"file:1: the text holds '\[PAD\]', a token that the model has no embedding for"
        ):
            make([Problem(question=question, language="en", answer="2", rationale=rationale, origin="file:1")])


ENDLESS = f"{3 * '{% for a in range(99999) %}'}{3 * '{% endfor %}'}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ lipsum.__globals__['os'].getcwd() }}", "SecurityError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% if", "TemplateSyntaxError"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "does not show a message once"),
        ("{{ 'x' * 10**10 }}", "MemoryError: more than 1024 MiB"),
        ("{{ 'x' * (2**24 + 1) }}", "16777217 characters, more than 16777216"),
        (ENDLESS, "takes longer than 1 s"),
    ],
)
def test_a_hostile_or_broken_chat_template_is_one_sentence(monkeypatch, tinyworld_tokenizers, text, said):
    """A template comes with the model: it runs in a sandbox with limits of time and memory, and nothing of it is a traceback."""
    monkeypatch.setattr(chat_rendering, "SECONDS", 1 if text == ENDLESS else 100)
    tokenizer = copy.deepcopy(tinyworld_tokenizers[0])
    tokenizer.chat_template = text
    chat = in_chat_format(template("tinyworld_math"), tokenizer)
    with pytest.raises(UserError, match=said):
        chat.prompt(Problem(question="How many?", language="en", origin="t"))
    monkeypatch.setattr(chat_rendering, "SECONDS", 100)
    tokenizer.chat_template = "{{ bos_token }}[{{ messages[0].role }}] {{ messages[0].content }} ->"
    written = in_chat_format(template("tinyworld_math"), tokenizer).prompt(
        Problem(question="How?", language="en", origin="t")
    )
    assert written.before.startswith("[user] ") and written.after.endswith(" ->"), "the next template is rendered"


def test_an_answer_that_nobody_waited_for_comes_to_no_other_conversation(monkeypatch, tinyworld_tokenizers):
    tokenizer = copy.deepcopy(tinyworld_tokenizers[0])
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert chat_rendering.chat_text(tokenizer, [{"role": "user", "content": "first"}]) == "first"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(chat_rendering.select, "select", interrupted)
        with pytest.raises(KeyboardInterrupt):
            chat_rendering.chat_text(tokenizer, [{"role": "user", "content": "second"}])
    assert chat_rendering.chat_text(tokenizer, [{"role": "user", "content": "third"}]) == "third"
