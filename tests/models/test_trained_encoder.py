"""An encoder that is trained: its gradients are those of plain transformers, and what it hands on loads there."""

from __future__ import annotations

import string

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, T5Config, T5EncoderModel

from mmscale.config.model import EncoderConfig
from mmscale.data.packing import EncoderRow
from mmscale.models.encoders import Encoder, load_encoder, load_encoder_tokenizer
from mmscale.models.encoders.export import export_encoder
from mmscale.models.merge import MergedModel
from mmscale.training.components import COMPONENTS
from tests.conftest import VOCABULARY, random_encoder, random_merged
from tests.models.test_loading import ENCODERS as CHECKPOINTS

FAMILIES = ("t5", "m2m100", "xlm_roberta", "decoder")
LENGTHS = (9, 1, 4, 17, 2, 8, 1)
RELATIVE = 1e-5
CPU = torch.device("cpu")


def row_and_texts() -> tuple[EncoderRow, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(4, VOCABULARY, (length,), generator=generator) for length in LENGTHS]
    return EncoderRow(torch.cat(texts), list(LENGTHS), ["sw"] * len(LENGTHS)), texts


def trained_encoder(family: str):
    encoder = random_encoder(family).float()
    encoder.requires_grad_(True)
    return encoder


def weighed(states: torch.Tensor) -> torch.Tensor:
    """A loss that looks at every number of the packed states."""
    return (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(1))).sum()


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def require_close(wanted: dict[str, torch.Tensor], given: dict[str, torch.Tensor]) -> None:
    largest = max(value.norm() for value in wanted.values())
    for name, value in wanted.items():
        # a key's bias has no gradient but rounding
        assert (given[name] - value).norm() <= RELATIVE * max(value.norm(), 1e-2 * largest), name


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_gradients_are_those_of_transformers_one_text_at_a_time_and_padded(family):
    row, texts = row_and_texts()
    encoder = trained_encoder(family)
    packed = gradients(encoder.model, weighed(encoder.states(row)))

    alone = [encoder.model(input_ids=text[None]).last_hidden_state[0] for text in texts]
    require_close(gradients(encoder.model, weighed(torch.cat(alone))), packed)

    longest = max(LENGTHS)
    ids = torch.stack([torch.nn.functional.pad(text, (0, longest - len(text))) for text in texts])
    mask = torch.arange(longest) < torch.tensor(LENGTHS)[:, None]
    padded = encoder.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask]
    require_close(gradients(encoder.model, weighed(padded)), packed)


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_a_row_at_once_and_computing_activations_again_change_nothing(family):
    row, _ = row_and_texts()
    encoder = trained_encoder(family)
    wanted = gradients(encoder.model, weighed(encoder.states(row)))
    encoder.reads_rows_at_once = True
    calls = []
    encoder.model.register_forward_pre_hook(lambda *_: calls.append(1))
    require_close(wanted, gradients(encoder.model, weighed(encoder.states(row))))
    assert len(calls) == 1, "ZeRO-3 gathers parameters at each call, which ranks make equally often"

    kept: list[int] = []
    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.numel()), x)[1], lambda x: x):
        loss = weighed(encoder.states(row))
    whole, before = sum(kept), gradients(encoder.model, loss)
    encoder.checkpoint_activations()
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.numel()), x)[1], lambda x: x):
        loss = weighed(encoder.states(row))
    assert sum(kept) < whole / 2
    again = gradients(encoder.model, loss)
    assert all(again[name].equal(before[name]) for name in before), "no dropout, no layer left out"


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_a_trained_encoder_is_handed_on_as_a_folder_that_transformers_and_we_read_alike(
    tmp_path, tinyworld_tokenizers, family
):
    torch.manual_seed(0)
    CHECKPOINTS[family]().save_pretrained(tmp_path / "before")
    tinyworld_tokenizers[1].save_pretrained(tmp_path / "before")
    config = EncoderConfig(path=str(tmp_path / "before"))
    encoder = load_encoder(config, CPU)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    trained = dict(encoder.model.named_parameters())
    row = EncoderRow(torch.tensor([5, 6, 7, 8]), [3, 1], ["sw", "de"])
    wanted = encoder.states(row)

    names = export_encoder(config, trained.get, tmp_path / "after")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    after = config.model_copy(update={"path": str(tmp_path / "after")})
    read = load_encoder(after, CPU)
    assert all(value.equal(trained[name]) for name, value in read.model.named_parameters())
    assert read.states(row).allclose(wanted, atol=1e-6), "sums may be of another order where weights lie elsewhere"
    assert not load_encoder(config, CPU).states(row).allclose(wanted, atol=1e-3)

    model = AutoModel.from_pretrained(tmp_path / "after").eval()
    half = model.get_encoder() if model.config.is_encoder_decoder else model
    theirs = [half(input_ids=ids[None]).last_hidden_state[0] for ids in row.token_ids.split(row.lengths)]
    assert torch.cat(theirs).allclose(wanted, atol=1e-6)
    texts = ["Ana ana vitabu 5.\n  Hapana"]
    ids = [load_encoder_tokenizer(one).tokenizer(texts)["input_ids"] for one in (config, after)]
    assert ids[0] == ids[1] == AutoTokenizer.from_pretrained(tmp_path / "after")(texts)["input_ids"]


WHITE_SPACE = ["\t", "\n", "\r", "\v", "\f", "  ", "   ", "    "]
"""As LangBridge's train_langbridge.py adds them: string.whitespace without the space, and runs of two to four."""


def test_added_tokens_are_those_that_langbridge_adds_and_go_with_the_encoder(tmp_path, tinyworld_tokenizers):
    torch.manual_seed(0)
    theirs = tinyworld_tokenizers[1]
    rows = len(theirs) + 3  # spare ones for some of the new tokens, as mT5's table has
    T5EncoderModel(T5Config(vocab_size=rows, d_model=24, d_kv=6, num_heads=4, d_ff=32, num_layers=1)).save_pretrained(
        tmp_path / "before"
    )
    theirs.save_pretrained(tmp_path / "before")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "before")
    assert [*string.whitespace[1:], "  ", "   ", "    "] == WHITE_SPACE
    theirs.add_special_tokens({"additional_special_tokens": WHITE_SPACE})

    config = EncoderConfig(path=str(tmp_path / "before"), added_tokens=tuple(WHITE_SPACE))
    ours = load_encoder_tokenizer(config)
    texts = ["Ana ana  vitabu 5.\n\n\tHapana    hapo\r\n", "5"]
    ids = ours.encode(texts, ["sw", "sw"], 99)
    assert ids == theirs(texts)["input_ids"]
    assert ids != load_encoder_tokenizer(EncoderConfig(path=config.path)).encode(texts, ["sw", "sw"], 99)

    plain = load_encoder(EncoderConfig(path=config.path), CPU).model.get_input_embeddings().weight
    encoder = load_encoder(config, CPU)
    table = encoder.model.get_input_embeddings().weight
    assert table.shape == (len(theirs), 24) and len(theirs) > rows
    assert table[:rows].equal(plain) and all(row.allclose(plain.mean(0), atol=1e-6) for row in table[rows:])

    COMPONENTS["encoder_embeddings"].make_trainable(MergedModel(*parts_around(encoder)))
    names = [name for name, parameter in encoder.model.named_parameters() if parameter.requires_grad]
    assert names == ["shared.weight"]
    row = EncoderRow(torch.tensor(ids[0]), [len(ids[0])], ["sw"])
    weighed(encoder.states(row)).backward()
    used = table.grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert sorted(set(ids[0])) == used and max(used) >= rows
    with torch.no_grad():
        table -= table.grad

    export_encoder(config, dict(encoder.model.named_parameters()).get, tmp_path / "after")
    after = EncoderConfig(path=str(tmp_path / "after"))
    assert load_encoder_tokenizer(after).encode(texts, ["sw", "sw"], 99) == ids
    assert load_encoder(after, CPU).model.get_input_embeddings().weight.equal(table)
    assert load_encoder(after, CPU).states(row).allclose(encoder.states(row), atol=1e-6)


def parts_around(encoder: Encoder):
    merged = random_merged("llama", "t5")
    return merged.language_model, encoder, merged.connector
