"""A QFormer between encoder and LLM: the module it is modelled on, packed rows, decoding, files, settings that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from mmscale.config.run import RunConfig, dump_run, parse_run
from mmscale.data.packing import pack
from mmscale.data.segments import SpecialTokens
from mmscale.decoding.ensemble import ModelStepper
from mmscale.errors import UserError
from mmscale.models import packed_layout
from mmscale.models.connectors import connector, kind_of
from mmscale.runs.run import stages_of
from mmscale.storage.reading import parse_yaml
from tests.models.joined import examples, merged_model
from tests.tokens import stored

WRITTEN = '{"cross_attention_every": 2, "heads": 4, "kind": "qformer", "layers": 3, "queries": 5, "width": 16}'
LENGTHS = (7, 1, 12, 6, 7)
SPECIALS = SpecialTokens(1, 2)
RELATIVE = 1e-5
NAMES = {
    "attention.query": "attention.attention.query",
    "attention.key": "attention.attention.key",
    "attention.value": "attention.attention.value",
    "attention.output": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm",
    "wide": "intermediate_query.dense",
    "narrow": "output_query.dense",
    "norm": "output_query.LayerNorm",
}
"""Ours -> theirs within a layer; cross attention has the names of attention."""


@pytest.fixture(autouse=True)
def several_grids(monkeypatch):
    """A grid for each of the short texts of these tests, which would share one."""
    monkeypatch.setitem(packed_layout._GRID, "cpu", 16)


def their_name(name: str) -> str:
    """The name of a parameter in transformers' module."""
    if not name.startswith("layers."):
        return name.replace("norm.", "layernorm.")
    _, number, rest = name.split(".", 2)
    part, _, kind = rest.removeprefix("cross_").rpartition(".")
    theirs = f"{NAMES[part]}.{kind}"
    return f"encoder.layer.{number}.{theirs.replace('attention.', 'crossattention.', 1) if rest.startswith('cross_') else theirs}"


def theirs_of(ours: torch.nn.Module, encoder_width: int) -> Blip2QFormerModel:
    config = Blip2QFormerConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        cross_attention_frequency=2,
        encoder_hidden_size=encoder_width,
    )
    config._attn_implementation = "eager"
    model = Blip2QFormerModel(config).eval()
    apart = ("queries", "projection.", "end_boundary")
    state = {their_name(k): v for k, v in ours.state_dict().items() if not k.startswith(apart)}
    assert not model.load_state_dict(state).missing_keys
    return model


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def test_outputs_and_gradients_are_those_of_transformers_module_on_the_same_weights():
    torch.manual_seed(0)
    made = connector(WRITTEN).build(24, 10)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model, states = theirs_of(made, 24), torch.randn(sum(LENGTHS), 24, requires_grad=True)
    count, tokens = len(LENGTHS), torch.randn(len(LENGTHS), 10)
    rows = torch.arange(7 * count).view(count, 7)  # beginning, five queries, boundary
    merged = made(states, tokens, rows[:, 0], rows[:, 1:6].flatten(), rows[:, 6], LENGTHS)

    longest = max(LENGTHS)
    mask = torch.arange(longest) < torch.tensor(LENGTHS)[:, None]
    padded = torch.zeros(count, longest, 24).masked_scatter(mask[..., None], states)
    queries = made.queries.expand(count, -1, -1)
    read = model(query_embeds=queries, encoder_hidden_states=padded, encoder_attention_mask=mask.long())
    connected = made.projection(read.last_hidden_state)
    ends = made.end_boundary.expand(count, 1, -1)
    wanted = torch.cat([tokens[:, None], connected, ends], 1).flatten(0, 1)
    assert relative(merged, wanted) < RELATIVE

    weights = torch.randn_like(merged)
    own = dict(made.named_parameters())
    ours = torch.autograd.grad((merged * weights).sum(), [states, *own.values()])
    of_theirs = dict(model.named_parameters())
    same = [
        own[name] if name in own and their_name(name) not in of_theirs else of_theirs[their_name(name)] for name in own
    ]
    theirs = torch.autograd.grad((wanted * weights).sum(), [states, *same])
    least = max(float(one.abs().max()) for one in theirs)
    for name, mine, right in zip(["states", *own], ours, theirs, strict=True):
        far = (mine - right).abs().max() / right.abs().max().clamp_min(
            1e-3 * least
        )  # a key's bias has none but rounding
        assert far < RELATIVE, name


def test_a_text_of_any_length_becomes_as_many_rows_packed_or_alone():
    model = merged_model(WRITTEN)
    chosen = examples(model)
    assert {example.prefix_length for example in chosen} == {6}
    row = pack(chosen, SPECIALS)
    assert row.lengths == [1 + 6 + len(e.prompt_ids) + len(e.target_ids) - 1 for e in chosen]
    assert row.encoder_rows.numel() == 5 * len(chosen) and row.boundary_rows[0] == 6
    together = model.hidden(row).split(row.lengths)
    for packed, example in zip(together, chosen, strict=True):
        assert torch.allclose(packed, model.hidden(pack([example], SPECIALS)), rtol=0, atol=1e-10)


def test_a_row_packed_for_another_connector_is_refused():
    model = merged_model(WRITTEN)
    with pytest.raises(ValueError, match="packed for prefixes of"):
        model.hidden(pack([replace(one, prefix_length=len(one.encoder_ids) + 1) for one in examples(model)], SPECIALS))


@pytest.mark.parametrize("prefill_tokens", [8, 8192])
def test_decoding_token_by_token_equals_the_whole_row(prefill_tokens):
    """Prefilled whole and in pieces; the prompts are of different lengths, the rows of the encoder as many for each."""
    model, prompts = merged_model(WRITTEN), None
    prompts = [replace(one, target_ids=()) for one in examples(model)]
    stepper = ModelStepper(model, prefill_tokens)
    with torch.no_grad():
        stepper.reserve(len(prompts), 40)
        found = [stepper.admit(prompts)]
        more = torch.arange(5, 5 + 3 * len(prompts)).view(len(prompts), 3)
        found += [stepper.extend(more[:, i : i + 1]) for i in range(3)]
        for number, prompt in enumerate(prompts):
            whole = pack([replace(prompt, target_ids=(*more[number].tolist(), 2))], SPECIALS)
            logits = model.language_model.logits(model.hidden(whole))[-4:]
            assert torch.allclose(torch.stack([step[number] for step in found]), logits, rtol=0, atol=1e-9)


def test_what_prompts_begin_with_is_computed_once_behind_the_queries():
    model = merged_model(WRITTEN)
    first = examples(model)[0]
    long = tuple(range(4, 24)) * 4
    prompts = [replace(first, prompt_ids=(*long, tail), target_ids=()) for tail in (30, 31)]
    alone, sharing = ModelStepper(model), ModelStepper(model)
    with torch.no_grad():
        sharing.share(prompts)
        assert sharing.shared_tokens == 1 + 6 + len(long)
        for stepper in (alone, sharing):
            stepper.reserve(2, 100)
        assert torch.allclose(sharing.admit(prompts), alone.admit(prompts), rtol=0, atol=1e-10)


def test_tokens_on_disk_keep_the_rows_that_each_text_becomes(tmp_path):
    model = merged_model(WRITTEN)
    chosen = examples(model)
    store = stored(tmp_path / "tokens", chosen)
    assert list(store) == chosen and store.merged_lengths().tolist() == [one.merged_length for one in chosen]
    plain = [replace(one, prefix_length=len(one.encoder_ids) + 1) for one in chosen]
    again = stored(tmp_path / "other", plain)
    assert again.digest() == store.digest(), "encoder states of the same tokens serve every connector"
    assert list(again.merged_lengths()) != list(store.merged_lengths())


def test_its_file_says_how_it_was_made_and_reads_back_as_nothing_else(tmp_path):
    kind = connector(WRITTEN)
    torch.manual_seed(0)
    made = kind.build(24, 10)
    kind.write(made, tmp_path / kind.file)
    found = kind_of(tmp_path)
    assert found.text == WRITTEN and found.settings == kind.settings
    again = found.read(tmp_path)
    assert again.settings.prefix_length(99) == 6
    assert all(value.equal(again.state_dict()[name]) for name, value in made.state_dict().items())
    for other in ("qformer", WRITTEN.replace("5", "6"), "linear"):
        with pytest.raises(
            UserError,
            match=r"holds the connector .*\"queries\": 5.*set connector to what it was trained with|holds the connector qformer",
        ):
            connector(other).read(tmp_path / kind.file)
    assert connector('{"kind": "qformer", "queries": 32}').text == "qformer", "one text for one connector"


def run(chosen: str, **more: object) -> RunConfig:
    values = {
        "name": "x",
        "language_model": {"path": "tinyworld:llm"},
        "encoder": {"path": "tinyworld:encoder"},
        "methods": ["mindmerger"],
        "connector": parse_yaml(chosen, "")["connector"],
        "recipes": {
            "mindmerger": {
                stage: {"data": [{"source": "tinyworld"}], "steps": 1, "packing": {"global_batch_size": 2}}
                for stage in ("mapping", "augmentation")
            }
        },
    }
    return parse_run({**values, **more}, "x.yaml")


def test_a_configuration_chooses_its_settings_and_reads_back():
    chosen = run("connector: {kind: qformer, queries: 5, layers: 3, heads: 4, width: 16, cross_attention_every: 2}")
    assert chosen.connector == WRITTEN == stages_of(chosen)[0].connector
    assert parse_run(parse_yaml(dump_run(chosen), ""), "run.yaml") == chosen
    assert run("connector: {kind: linear}").connector == "linear"


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ("{kind: qformer, queries: 0}", "connector qformer: queries: .*greater than or equal to 1"),
        ("{kind: qformer, queries: many}", "connector qformer: queries: .*got 'many'"),
        ("{kind: qformer, querys: 4}", "unknown setting of connector qformer 'querys': did you mean 'queries'?"),
        ("{kind: qformer, width: 16, heads: 3}", "heads=3 do not share width=16 evenly"),
        ("{kind: linear, queries: 4}", "connector linear has no settings: leave queries out"),
        ("{queries: 4}", "names its kind"),
        ("{kind: qforme}", "unknown connector 'qforme': did you mean 'qformer'?"),
        ("qforme", "unknown connector 'qforme': did you mean 'qformer'?"),
        ("'{\"kind\": 3'", "neither a name nor JSON"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_key(chosen, said):
    with pytest.raises(UserError, match=f"connector: .*{said}"):
        run(f"connector: {chosen}")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("width: 4096, heads: 8", "connector.width=4096 makes a QFormer wider than its encoder, whose states are"),
        ("heads: 7", "connector.heads=7 do not share the encoder's width of"),
    ],
)
def test_one_that_does_not_fit_its_encoder_is_refused_before_anything_is_made(tmp_path, settings, said):
    chosen = run(f"connector: {{kind: qformer, {settings}}}", output_dir=str(tmp_path))
    with pytest.raises(UserError, match=said):
        stages_of(chosen)[0].require_trainable()
    assert not list(Path(tmp_path).iterdir())
