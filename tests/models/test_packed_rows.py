"""Packed = left-padded = one at a time, in float64: logits, gradients, and nothing leaks between neighbours."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    MixtralConfig,
    Phi3Config,
    Qwen3MoeConfig,
)

from mmscale.data.packing import IGNORED, EncoderRow, pack, without_targets
from mmscale.data.segments import SpecialTokens, TokenizedExample
from mmscale.models import packed_layout
from mmscale.models.assembly import make_trainable
from mmscale.models.attention import PACKED_SDPA
from mmscale.models.language_model import LanguageModel
from mmscale.models.packed_layout import PackedLayout
from mmscale.training.objective import CausalObjective
from tests.conftest import VOCABULARY, random_causal_lm, random_encoder, random_merged

SPECIALS = SpecialTokens(1, 2)
TOLERANCE = 1e-10
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 60,
}
LANGUAGE_MODELS = ("llama", "mistral", "qwen2")
ENCODERS = ("t5", "m2m100", "xlm_roberta", "decoder")


def examples(merged: bool, seed: int = 0) -> list[TokenizedExample]:
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(4, VOCABULARY, (count,), generator=generator).tolist())

    shapes = ((5, 3, 9), (0, 12, 1), (11, 1, 4), (2, 7, 17), (1, 0, 1), (0, 1, 2), (0, 1, 1))
    return [
        TokenizedExample(
            prompt_ids=ids(p), target_ids=(*ids(t), 2), encoder_ids=ids(e) if merged else (), language="sw"
        )
        for p, t, e in shapes
    ]


def hidden_by_example(model, chosen, together: bool) -> list[torch.Tensor]:
    if together:
        row = pack(chosen, SPECIALS)
        return list(model.hidden(row).split(row.lengths))
    return [model.hidden(pack([example], SPECIALS)) for example in chosen]


@pytest.fixture(autouse=True)
def several_grids(monkeypatch):
    """A grid for each of the short sequences of these tests, which would share one."""
    monkeypatch.setitem(packed_layout._GRID, "cpu", 16)
    assert len(PackedLayout(tuple(e.merged_length for e in examples(True)), torch.device("cpu")).grids) > 2


def test_sequences_share_a_grid_where_that_takes_least(monkeypatch):
    monkeypatch.setitem(packed_layout._GRID, "cpu", 1 << 13)

    def grids(*lengths, device="cpu"):
        return PackedLayout(lengths, torch.device(device)).grids

    assert grids(50, 3, 45, 2, 50) == [(5, 50)], "where a grid costs as much as 2^13 entries"
    assert grids(300, 9, 290, 6, 300) == [(3, 300), (2, 9)]
    assert grids(300, 9, 290, 6, 300, device="meta") == [(5, 300)], "where it costs as much as 2^18"
    assert grids(100, 70, 100, 100) == [(4, 100)] and grids(7) == [(1, 7)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        lengths = torch.randint(1, 12, (6,), generator=generator).mul(25).tolist()
        order = sorted(lengths, reverse=True)
        cuts = [[c for c in range(1, 6) if code >> (c - 1) & 1] for code in range(32)]
        every = [[order[a:b] for a, b in zip([0, *cut], [*cut, 6], strict=True)] for cut in cuts]
        least = min(sum(2**13 + len(group) * group[0] ** 2 for group in groups) for groups in every)
        found = grids(*lengths)
        assert sum(2**13 + count * longest**2 for count, longest in found) == least and sum(b for b, _ in found) == 6


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
@pytest.mark.parametrize("encoder", [None, "t5"])
def test_packed_logits_equal_one_at_a_time(family, encoder):
    model = random_merged(family, encoder)
    chosen = examples(encoder is not None)
    for packed, alone in zip(
        hidden_by_example(model, chosen, True), hidden_by_example(model, chosen, False), strict=True
    ):
        assert torch.allclose(packed, alone, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_packed_logits_equal_left_padded_transformers(family):
    """The same weights run by transformers itself (sdpa), left-padded, with an attention mask."""
    model, reference = random_merged(family), random_causal_lm(family, "sdpa")
    chosen = examples(False)
    rows = [[1, *e.prompt_ids, *e.target_ids[:-1]] for e in chosen]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    padded = reference(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    for i, packed in enumerate(hidden_by_example(model, chosen, True)):
        logits = model.language_model.logits(packed)
        assert torch.allclose(logits, padded[i, longest - len(rows[i]) :], rtol=0, atol=TOLERANCE)


def test_merged_logits_equal_left_padded_merge():
    """Against the published way: pad encoder states and prompt, sort padding to the left, run padded."""
    model, reference = random_merged("llama", "t5"), random_causal_lm("llama", "sdpa")
    chosen = examples(True)
    embed = reference.get_input_embeddings()
    inputs = []
    for example in chosen:
        states = model.encoder.model(input_ids=torch.tensor([example.encoder_ids])).last_hidden_state[0]
        text = torch.tensor([*example.prompt_ids, *example.target_ids[:-1]])
        mapped, boundary = model.connector.mlp(states), model.connector.end_boundary[0]
        parts = [embed(torch.tensor([1])), mapped, boundary, embed(text)]
        inputs.append(torch.cat(parts))
    longest = max(map(len, inputs))
    padded = torch.stack([torch.cat([x.new_zeros(longest - len(x), x.shape[1]), x]) for x in inputs])
    mask = torch.tensor([[0] * (longest - len(x)) + [1] * len(x) for x in inputs])
    out = reference(inputs_embeds=padded, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
    for i, packed in enumerate(hidden_by_example(model, chosen, True)):
        assert torch.allclose(
            model.language_model.logits(packed), out[i, longest - len(inputs[i]) :], rtol=0, atol=TOLERANCE
        )


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
@pytest.mark.parametrize("encoder", [None, "t5"])
def test_packed_gradients_equal_one_at_a_time(family, encoder):
    model = random_merged(family, encoder)
    chosen = examples(encoder is not None)
    trained = model.connector if encoder else model.language_model
    trained.requires_grad_(True)
    objective = CausalObjective(model)
    objective.loss_sum(pack(chosen, SPECIALS)).backward()
    packed = {name: p.grad.clone() for name, p in trained.named_parameters()}
    trained.zero_grad()
    for example in chosen:
        objective.loss_sum(pack([example], SPECIALS)).backward()
    for name, parameter in trained.named_parameters():
        assert torch.allclose(packed[name], parameter.grad, rtol=0, atol=TOLERANCE), name
        assert packed[name].abs().max() > 0, name


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_rows_that_are_read_are_the_same_whatever_becomes_of_the_others(family, checkpointing):
    """States and all gradients, with the last layer's MLP and output projection on the read rows alone."""
    model = random_merged(family, "t5")
    make_trainable(model.language_model, checkpointing, frozen=False)
    model.connector.requires_grad_(True)
    row = pack(examples(True), SPECIALS)
    weights = torch.randn(row.target_tokens, model.language_model.width, dtype=torch.float64)
    seen: dict[str, list[int]] = {}
    for name, module in model.language_model.causal_lm.named_modules():
        if name.endswith(("o_proj", "down_proj")):
            module.register_forward_pre_hook(
                lambda _, args, name=name: seen.setdefault(name, []).append(args[0].shape[1])
            )
    results = []
    for states in (lambda: model.hidden(row)[row.target_rows], lambda: model.hidden(row, row.target_rows)):
        model.zero_grad()
        seen.clear()
        found = states()
        (found * weights).sum().backward()
        results.append((found, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    assert torch.allclose(results[0][0], results[1][0], rtol=0, atol=TOLERANCE)
    assert results[0][1].keys() == results[1][1].keys() >= {"connector.mlp.linear1.weight"}
    for name, gradient in results[0][1].items():
        assert torch.allclose(gradient, results[1][1][name], rtol=0, atol=TOLERANCE), name
    total, read, last = (
        sum(row.lengths),
        row.target_tokens,
        len(model.language_model.causal_lm.get_decoder().layers) - 1,
    )
    assert read < total
    for name, counts in seen.items():
        assert set(counts) == {read if f"layers.{last}." in name else total}, name


@pytest.mark.parametrize(
    ("config", "spared"),
    [
        (MixtralConfig(**SMALL, num_local_experts=4), True),
        (Qwen3MoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16), True),
        (Gemma3TextConfig(**SMALL), True),  # norms after its MLP
        (Phi3Config(**SMALL, pad_token_id=0), True),  # gate and up in one
        (GPTNeoXConfig(**SMALL), True),  # attention and MLP side by side
        (GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=60), False),  # other names
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_layers_of_other_kinds_spare_unread_rows_or_compute_them(config, spared):
    torch.manual_seed(0)
    causal_lm = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED_SDPA).eval()
    model, seen = LanguageModel(causal_lm, None, SPECIALS), []
    last = next(reversed([module for name, module in causal_lm.named_modules() if name.endswith(".mlp")]))
    last.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    inputs, places = model.embed(torch.arange(3, 14)), torch.cat([torch.arange(6), torch.arange(5)])
    layout, read = PackedLayout((6, 5), inputs.device), torch.tensor([3, 5, 9])
    whole = model.hidden(inputs, places, layout)
    assert torch.allclose(model.hidden(inputs, places, layout, read=read), whole[read], atol=1e-5)
    assert seen == [11, 3 if spared else 11]


def test_a_row_of_which_nothing_is_read_still_passes_through_all_layers():
    model = random_merged("llama", "t5")
    model.connector.requires_grad_(True)
    row = without_targets(pack(examples(True), SPECIALS))
    loss = CausalObjective(model).loss_sum(row)
    loss.backward()
    assert float(loss.detach()) == 0 and all(not p.grad.any() for p in model.connector.parameters())


def test_a_model_that_is_wrapped_twice_spares_unread_rows_once():
    model = random_merged("llama").language_model
    again = LanguageModel(model.causal_lm, None, SPECIALS)
    inputs, places = again.embed(torch.arange(4, 9)), torch.arange(5)
    layout, read = PackedLayout((5,), inputs.device), torch.tensor([1, 4])
    assert torch.equal(again.hidden(inputs, places, layout, read=read), model.hidden(inputs, places, layout, read=read))
    assert torch.allclose(again.hidden(inputs, places, layout)[read], again.hidden(inputs, places, layout, read=read))


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_a_changed_neighbour_changes_nothing(family):
    model = random_merged(family, "t5")
    first, second = examples(True, seed=0), examples(True, seed=9)
    before = hidden_by_example(model, first, True)
    after = hidden_by_example(model, [second[0], first[1], second[2], first[3], *second[4:]], True)
    assert torch.equal(before[1], after[1]) and torch.equal(before[3], after[3])
    assert not torch.equal(before[0], after[0])


@pytest.mark.parametrize("family", ENCODERS)
def test_encoder_states_do_not_depend_on_company(family):
    encoder = random_encoder(family)
    generator = torch.Generator().manual_seed(3)
    parts = [torch.randint(4, VOCABULARY, (n,), generator=generator) for n in (9, 1, 30, 4, 8, 29)]
    together = encoder.states(EncoderRow(torch.cat(parts), [len(p) for p in parts], ["sw"] * 6))
    for part, packed in zip(parts, together.split([len(p) for p in parts]), strict=True):
        alone = encoder.states(EncoderRow(part, [len(part)], ["sw"]))
        assert torch.allclose(packed, alone, rtol=0, atol=TOLERANCE)


def test_encoder_stays_in_evaluation_mode_and_takes_no_gradient():
    model = random_merged("llama", "t5")
    model.train()
    assert not any(module.training for module in model.encoder.modules())
    assert not any(p.requires_grad for p in model.encoder.parameters())


def test_labels_stand_before_the_token_they_predict():
    example = TokenizedExample(prompt_ids=(10, 11), target_ids=(20, 21, 2), encoder_ids=(30, 31, 32), language="sw")
    row = pack([example], SPECIALS)
    assert row.token_ids.tolist() == [1, 10, 11, 20, 21]
    assert row.token_rows.tolist() == [0, 5, 6, 7, 8]
    assert row.encoder_rows.tolist() == [1, 2, 3] and row.boundary_rows.tolist() == [4]
    assert row.labels.tolist() == [IGNORED] * 6 + [20, 21, 2]
    assert example.merged_length == sum(row.lengths) == 9


@pytest.mark.parametrize("frozen", [True, False])
def test_gradient_checkpointing_changes_no_gradient(frozen):
    gradients = []
    for checkpointing in (False, True):
        model = random_merged("llama", "t5")
        model.requires_grad_(False)
        make_trainable(model.language_model, checkpointing, frozen)
        model.connector.requires_grad_(True)
        CausalObjective(model).loss_sum(pack(examples(True), SPECIALS)).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
