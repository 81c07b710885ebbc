"""LayAlign: the authors' formula on the same weights, packed rows, decoding, files, models and settings that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.models.llama.modeling_llama import rotate_half

from mmscale.cli.main import main
from mmscale.data.packing import pack
from mmscale.data.segments import SpecialTokens, TokenizedExample
from mmscale.decoding.ensemble import ModelStepper
from mmscale.decoding.generate import PromptDecoder
from mmscale.errors import UserError
from mmscale.models import packed_layout
from mmscale.models.connectors import Depths, connector, kind_of
from mmscale.models.language_model import LanguageModel
from mmscale.models.merge import MergedModel
from mmscale.training.objective import CausalObjective
from tests.conftest import VOCABULARY, random_causal_lm, random_encoder, random_merged
from tests.decoding.test_generate import END, SAMPLED, alone, last_logits, naive, prompts
from tests.models.joined import examples, merged_model

SPECIALS = SpecialTokens(1, 2)
RELATIVE = 1e-5
DEEP = '{"kind": "layalign", "projection": "mlp"}'


@pytest.fixture(autouse=True)
def several_grids(monkeypatch):
    """A grid for each of the short texts of these tests, which would share one."""
    monkeypatch.setitem(packed_layout._GRID, "cpu", 16)


@contextmanager
def their_attention(llm: Any, states: Tensor, gates: Tensor) -> Iterator[None]:
    """transformers' LLaMA with the authors' addition to its attention's output; `states` [2 L, E, W]."""

    def add(own: Any, args: Any, kwargs: Any, output: Any) -> Any:
        def heads(rows: Tensor) -> Tensor:
            return rows.unflatten(-1, (-1, own.head_dim)).transpose(-3, -2)

        cos, sin = kwargs["position_embeddings"]
        query = heads(own.q_proj(kwargs["hidden_states"]))
        query = query * cos[:, None] + rotate_half(query) * sin[:, None]
        number, sharing = 2 * own.layer_idx, own.num_key_value_groups
        key, value = heads(own.k_proj(states[number])), heads(own.v_proj(states[number + 1]))
        key, value = (part.repeat_interleave(sharing, dim=0) for part in (key, value))
        scores = gates[own.layer_idx] * torch.softmax(query @ key.transpose(-1, -2) / own.head_dim**0.5, dim=-1)
        return (output[0] + own.o_proj((scores @ value).transpose(1, 2).flatten(2)), *output[1:])

    hooks = [layer.self_attn.register_forward_hook(add, with_kwargs=True) for layer in llm.model.layers]
    yield
    for hook in hooks:
        hook.remove()


def their_logits(model: MergedModel, llm: Any, example: TokenizedExample) -> Tensor:
    """[n, V] after each token of the row of one example, by the authors' formula."""
    joins, encoder = model.connector, model.encoder.model
    read = encoder(input_ids=torch.tensor([example.encoder_ids]), output_hidden_states=True)
    layers = torch.stack([one[0] for one in read.hidden_states])[:-1]  # all but the last: [S, E, d]
    mixer, mapping = joins.mixer, joins.mapping
    mixed = torch.relu(torch.einsum("ls,sed->led", mixer.mix.weight, layers) + mixer.mix.bias[:, None, None])
    states = F.linear(mixed, mixer.projection.weight, mixer.projection.bias)
    if mixer.second_projection is not None:
        states = mixer.second_projection(torch.relu(states))
    tokens = llm.get_input_embeddings()(torch.tensor([1, *example.prompt_ids, *example.target_ids[:-1]]))
    rows = torch.cat([tokens[:1], mapping.mlp(read.last_hidden_state[0]), mapping.end_boundary[0], tokens[1:]])
    with their_attention(llm, states, joins.gates):
        return llm(inputs_embeds=rows[None]).logits[0]


@pytest.mark.parametrize("text", ["layalign", DEEP])
def test_loss_logits_and_gradients_are_those_of_the_authors_formula_on_the_same_weights(text):
    model = merged_model(text, dtype=torch.float32)
    llm = random_causal_lm("llama", "eager").float()
    chosen, trained = examples(model), dict(model.connector.named_parameters())
    model.connector.requires_grad_(True)
    row = pack(chosen, SPECIALS)
    ours = CausalObjective(model).loss_sum(row)
    logits = model.language_model.logits(model.hidden(row))
    theirs = [their_logits(model, llm, one) for one in chosen]
    assert relative(logits, torch.cat(theirs)) < RELATIVE
    targets = [torch.tensor(one.target_ids) for one in chosen]
    loss = sum(
        F.cross_entropy(one[-len(ids) :], ids, reduction="sum") for one, ids in zip(theirs, targets, strict=True)
    )
    assert abs(float(ours.detach() / loss.detach()) - 1) < RELATIVE
    of_ours = torch.autograd.grad(ours, list(trained.values()))
    of_theirs = torch.autograd.grad(loss, list(trained.values()))
    for name, mine, right in zip(trained, of_ours, of_theirs, strict=True):
        assert right.any() and relative(mine, right) < RELATIVE, name


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max())


def test_a_new_one_adds_nothing_to_the_mapping_alone():
    plain, model = random_merged("llama", "t5"), random_merged("llama", "t5", joined_by="layalign")
    model.connector.mapping.load_state_dict(plain.connector.state_dict())
    row = pack(examples(plain), SPECIALS)
    assert torch.allclose(model.hidden(row), plain.hidden(row), rtol=0, atol=1e-12)


@pytest.mark.parametrize("language_model", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("encoder", ["t5", "m2m100", "xlm_roberta", "decoder"])
def test_packed_equals_alone(language_model, encoder):
    model = merged_model("layalign", language_model=language_model, encoder=encoder)
    chosen = examples(model)
    row = pack(chosen, SPECIALS)
    together = model.hidden(row).split(row.lengths)
    for packed, example in zip(together, chosen, strict=True):
        assert torch.allclose(packed, model.hidden(pack([example], SPECIALS)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("encoder", ["t5", "m2m100", "xlm_roberta", "decoder"])
def test_the_states_of_all_layers_are_what_each_layer_makes(encoder):
    reads = random_encoder(encoder)
    chosen = pack(examples(merged_model("layalign", encoder=encoder)), SPECIALS).encoder
    last = reads.states(chosen)
    blocks = next(m for m in reads.model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == reads.depth)
    seen: list[Tensor] = []
    hooks = [b.register_forward_hook(lambda _, args, out: seen.append(args[0])) for b in blocks]
    reads.all_layers = True
    states = reads.states(chosen)
    assert states.shape == (len(chosen.token_ids), reads.depth + 1, reads.width) == (len(states), *reads.shape)
    assert states[:, -1].equal(last)
    for hook in hooks:
        hook.remove()
    for entered, number in zip(seen[: reads.depth], range(reads.depth), strict=True):  # of the shortest texts
        count = entered.shape[0] * entered.shape[1]
        assert any(entered[0].allclose(states[i : i + entered.shape[1], number]) for i in range(len(states))), count


@pytest.mark.parametrize("prefill_tokens", [8, 8192])
def test_decoding_token_by_token_equals_the_whole_row(prefill_tokens):
    """Prefilled whole and in pieces, one at a time and together; one that leaves gives its slot to the last."""
    model = merged_model("layalign")
    prompts = [replace(one, target_ids=()) for one in examples(model)]
    more = torch.arange(5, 5 + 4 * len(prompts)).view(len(prompts), 4)
    stepper = ModelStepper(model, prefill_tokens)
    with torch.no_grad():
        for _ in range(2):  # the room is taken again
            stepper.reserve(len(prompts), 40)
            found = [torch.cat([stepper.admit(prompts[:1]), stepper.admit(prompts[1:])])]
            found += [stepper.extend(more[:, i : i + 1]) for i in range(2)]
            stepper.leave(1)
            kept = [0, len(prompts) - 1, *range(2, len(prompts) - 1)]
            found.append(stepper.extend(more[kept, 2:]))  # two tokens at once
        for slot, number in enumerate(kept):
            whole = pack([replace(prompts[number], target_ids=(*more[number].tolist(), 2))], SPECIALS)
            logits = model.language_model.logits(model.hidden(whole))[-5:]
            ours = torch.cat(
                [
                    found[0][number, None],
                    found[1][number, None],
                    found[2][number, None],
                    found[3].unflatten(0, (-1, 2))[slot],
                ]
            )
            assert torch.allclose(ours, logits, rtol=0, atol=1e-9)


def test_a_slot_that_is_taken_again_reads_its_own_text_and_longer_texts_make_room():
    model = merged_model("layalign")
    prompts = sorted((replace(one, target_ids=()) for one in examples(model)), key=lambda one: len(one.encoder_ids))
    stepper = ModelStepper(model)
    with torch.no_grad():
        stepper.reserve(2, 60)
        stepper.admit(prompts[:2])
        for prompt in prompts[2:]:
            stepper.leave(0)
            stepper.admit([prompt])
            step = stepper.extend(torch.tensor([[7], [9]]))[1]
            whole = pack([replace(prompt, target_ids=(9, 2))], SPECIALS)
            assert torch.allclose(step, model.language_model.logits(model.hidden(whole))[-1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_a_stream_whose_slots_are_filled_again_gives_what_the_whole_rows_do(slots):
    model, asked = merged_model("layalign"), prompts(True, 9)
    config = SAMPLED.model_copy(update={"batch_size": slots})
    with torch.inference_mode():
        right = [naive(lambda ids, p=p: last_logits(model, p, ids), i, config) for i, p in enumerate(asked)]
    assert len({len(ids) for ids in right}) > 1, "the test must see rows leave at different times"
    assert {g.prompt: g.token_ids for g in PromptDecoder(alone(model), END, 256).stream([asked], config)} == dict(
        enumerate(right)
    )


def test_what_prompts_begin_with_is_computed_once_with_what_its_layers_read():
    model = merged_model("layalign")
    first = examples(model)[0]
    long = tuple(range(4, 24)) * 4
    prompts = [replace(first, prompt_ids=(*long, tail), target_ids=()) for tail in (30, 31)]
    alone, sharing = ModelStepper(model), ModelStepper(model)
    with torch.no_grad():
        sharing.share(prompts)
        assert sharing.shared_tokens == 1 + 10 + len(long)
        for stepper in (alone, sharing):
            stepper.reserve(2, 100)
        assert torch.allclose(sharing.admit(prompts), alone.admit(prompts), rtol=0, atol=1e-10)
        behind = [stepper.continued([1, 0, 1], [[5, 6], [7], [8, 9, 10]]) for stepper in (alone, sharing)]
        assert torch.allclose(*behind, rtol=0, atol=1e-10)
        more = torch.tensor([[5], [6]])
        assert torch.allclose(sharing.extend(more), alone.extend(more), rtol=0, atol=1e-10)


def test_gradients_are_the_same_where_activations_are_computed_again():
    found = []
    for again in (False, True):
        model = merged_model("layalign")
        model.connector.requires_grad_(True)
        if again:
            from mmscale.models.assembly import checkpoint_activations

            checkpoint_activations(model.language_model)
        loss = CausalObjective(model).loss_sum(pack(examples(model), SPECIALS))
        found.append(torch.autograd.grad(loss, list(model.connector.parameters())))
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(*found, strict=True))


def test_chosen_layers_alone_are_mixed_and_read():
    text = '{"encoder_layers": [2, 0], "kind": "layalign", "language_layers": [1]}'
    model = merged_model(text)
    joins = model.connector
    assert joins.gates.shape == (1,) and joins.mixer.mix.weight.shape == (2, 2)
    row = pack(examples(model), SPECIALS)
    seen = {}
    for number, layer in enumerate(model.language_model.causal_lm.model.layers):
        layer.self_attn.k_proj.register_forward_hook(
            lambda _m, args, _o, n=number: seen.setdefault(n, []).append(args[0].shape[1])
        )
    model.hidden(row)
    assert seen == {0: [sum(row.lengths)], 1: [sum(row.lengths), len(row.encoder.token_ids)]}


def test_its_file_says_how_it_was_made_and_reads_back_as_nothing_else(tmp_path):
    kind = connector(DEEP)
    torch.manual_seed(0)
    made = kind.build(24, 10, Depths(5, 3))
    kind.write(made, tmp_path / kind.file)
    found = kind_of(tmp_path)
    assert found.text == DEEP
    again = found.read(tmp_path)
    assert again.depths == Depths(5, 3) and again.settings == kind.settings
    assert all(value.equal(again.state_dict()[name]) for name, value in made.state_dict().items())
    with pytest.raises(UserError, match="holds the connector .*mlp.*not layalign"):
        connector("layalign").read(tmp_path / kind.file)


def test_a_checkpoint_of_the_authors_is_read_whole_or_refused(tmp_path):
    """Tensors named as their LayAlign class saves them, frozen models included, by torch.save."""
    made = connector(DEEP).build(24, 10, Depths(4, 3))
    torch.manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    theirs = {"mixer.mix": "fc1", "mixer.projection": "fc2", "mixer.second_projection": "fc3"}
    held = {f"model_llm.model.model.layers.{i}.self_attn.adaption_gate": made.gates[i, None] for i in range(3)}
    held |= {f"encoder_mt.block.{i}.layer.0.SelfAttention.q.weight": torch.ones(2, 2) for i in range(4)}
    for name, value in made.state_dict().items():
        part, _, leaf = name.rpartition(".")
        if name != "gates":
            held[f"encoder_aligner.projector.{theirs[part]}.{leaf}" if part in theirs else name] = value
    held = {name: value.detach().clone() for name, value in held.items()}
    path = tmp_path / "pytorch_model.bin"
    torch.save(held, path)
    again = connector(DEEP).read(tmp_path)
    assert again.depths == Depths(4, 3)
    assert all(value.equal(again.state_dict()[name]) for name, value in made.state_dict().items())
    with pytest.raises(UserError, match="of other settings"):
        connector("layalign").read(tmp_path)
    for name in (
        "encoder_mt.block.3.layer.0.SelfAttention.q.weight",
        "encoder_aligner.projector.fc1.bias",
        "mapping.end_boundary",
    ):
        torch.save({key: value for key, value in held.items() if key != name}, path)
        with pytest.raises(UserError, match=r"mixes 4 states of an encoder of 3 layers|Missing key"):
            connector(DEEP).read(tmp_path)


def test_models_of_other_layers_are_refused():
    model = merged_model("layalign")
    joins = connector("layalign").build(24, 32, Depths(3, 2))
    with pytest.raises(UserError, match="for an encoder of 3 layers and an LLM of 2, but they have 2 and 2"):
        MergedModel(model.language_model, model.encoder, joins)


def test_a_language_model_whose_attention_is_of_another_kind_is_refused(tmp_path, capsys):
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    llm = LanguageModel(Qwen3ForCausalLM(config), None, SPECIALS)
    joins = connector("layalign").build(24, 32, Depths(2, 2))
    said = "the attention of Qwen3ForCausalLM differs by k_norm, q_norm from q_proj"
    with pytest.raises(UserError, match=said):
        MergedModel(llm, random_encoder("t5"), joins)
    config.save_pretrained(tmp_path)
    assert (
        main(
            [
                "run",
                "papers/layalign-tinyworld.yaml",
                f"language_model.path={tmp_path}",
                f"output_dir={tmp_path / 'run'}",
            ]
        )
        == 2
    )
    assert said in " ".join(capsys.readouterr().err.split()), "before anything is read or computed"


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (
            '{"kind": "layalign", "encoder_layers": [0, 6]}',
            "connector.encoder_layers: 6 comes twice or is not from 0 to 5",
        ),
        (
            '{"kind": "layalign", "language_layers": [1, 1]}',
            "connector.language_layers: 1 comes twice or is not from 0 to 2",
        ),
        ('{"kind": "layalign", "language_layers": []}', "language_layers"),
        ('{"kind": "layalign", "projection": "deep"}', "connector layalign: projection"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_key(chosen, said):
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        connector(chosen).build(24, 10, Depths(5, 3))


def test_steps_that_read_encoder_texts_are_not_recorded():
    with pytest.raises(ValueError, match="fixed memory"):
        ModelStepper(merged_model("layalign"), recorder=object())
