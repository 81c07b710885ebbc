"""Checkpoints of other programs: converted exactly, loaded by us and by transformers, refused by name when partial."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from mmscale.cli.main import main
from mmscale.conversion.hugging_face import to_safetensors
from mmscale.data.packing import pack
from mmscale.data.segments import TokenizedExample
from mmscale.models.assembly import assemble, read_parts
from mmscale.models.connectors.layers import LayeredConnector
from mmscale.parallel.context import ParallelContext
from mmscale.training.objective import CausalObjective
from tests.conftest import random_causal_lm
from tests.distributed import ranks

CPU = ParallelContext(device=torch.device("cpu"))


@pytest.fixture
def base(tmp_path, tinyworld_tokenizers):
    """A small causal LM folder, as another program would start from."""
    model = random_causal_lm("llama", "sdpa").float()
    model.resize_token_embeddings(len(tinyworld_tokenizers[0]))
    model.save_pretrained(tmp_path / "base")
    tinyworld_tokenizers[0].save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def as_torch_shards(base, folder, count=2):
    """The same checkpoint as it was published before safetensors."""
    folder.mkdir()
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    weights, index = load_file(base / "model.safetensors"), {}
    for number in range(count):
        name = f"pytorch_model-{number + 1:05d}-of-{count:05d}.bin"
        torch.save({k: v for i, (k, v) in enumerate(weights.items()) if i % count == number}, folder / name)
        index |= {k: name for i, k in enumerate(weights) if i % count == number}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return weights


def equal_weights(folder, expected, dtype=torch.float32):
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).state_dict()
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value.to(dtype)), name


def test_torch_shards_become_safetensors_shards(base, tmp_path, capsys):
    weights = as_torch_shards(base, tmp_path / "old")
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert f"{len(weights)} tensors" in capsys.readouterr().out
    assert not list((tmp_path / "new").glob("*.bin*"))
    equal_weights(tmp_path / "new", weights)
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    equal_weights(tmp_path / "half", weights, torch.bfloat16)
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto")
    assert half.dtype == torch.bfloat16, "as written, though the configuration it came with says float32"
    (tmp_path / "small").mkdir()
    to_safetensors(tmp_path / "old", tmp_path / "small", None, shard_bytes=40_000)
    shards = list((tmp_path / "small").glob("model-*.safetensors"))
    assert len(shards) > 2 and all(shard.stat().st_size < 60_000 or len(load_file(shard)) == 1 for shard in shards)
    equal_weights(tmp_path / "small", weights)


class LangBridge(nn.Module):
    """The authors' module tree (kaistAI/LangBridge, langbridge/modeling_langbridge.py): the decoder without its head is
    lb.lm, the head and the embeddings stand beside it, and the latter are the decoder's own once more."""

    def __init__(self, causal_lm, encoder):
        super().__init__()
        self.lb = nn.Module()
        self.lb.enc, self.lb.alignment = encoder, nn.Module()
        self.lb.alignment.linear = nn.Linear(encoder.config.d_model, causal_lm.config.hidden_size)
        self.lb.alignment.enc_eos = nn.Parameter(torch.randn(causal_lm.config.hidden_size))
        self.lb.lm, self.lb.lm_head = causal_lm.model, causal_lm.lm_head
        self.lb.embeddings = causal_lm.get_input_embeddings()

    def logits(self, encoder_ids, target_ids):
        """[BOS] ; Linear(encoder) ; enc_eos ; target."""
        states = self.lb.enc(input_ids=torch.tensor([encoder_ids])).last_hidden_state[0]
        parts = [
            self.lb.embeddings(torch.tensor([1])),
            self.lb.alignment.linear(states),
            self.lb.alignment.enc_eos[None],
        ]
        inputs = torch.cat([*parts, self.lb.embeddings(torch.tensor(target_ids[:-1], dtype=torch.int64))])
        return self.lb.lm_head(self.lb.lm(inputs_embeds=inputs[None]).last_hidden_state[0])


@pytest.fixture
def langbridge(base, tmp_path, tinyworld_tokenizers):
    """A folder as their save_pretrained leaves it: every name of a shared tensor, no model type in config.json."""
    torch.manual_seed(8)
    words = len(tinyworld_tokenizers[1])
    config = T5Config(vocab_size=words, d_model=24, d_kv=6, num_heads=4, d_ff=32, num_layers=2)
    encoder = T5EncoderModel(config).eval()
    encoder.save_pretrained(tmp_path / "enc")
    tinyworld_tokenizers[1].save_pretrained(tmp_path / "enc")
    made = LangBridge(AutoModelForCausalLM.from_pretrained(base), encoder).eval()
    folder = tmp_path / "langbridge"
    folder.mkdir()
    torch.save({k: v.clone() for k, v in made.state_dict().items()}, folder / "pytorch_model.bin")
    settings = {
        "architectures": ["LangBridgeModel"],
        "alignments": "linear",
        "enc": str(tmp_path / "enc"),
        "lm": "org/not-here",
        "dim_enc": 24,
        "dim_lm": 32,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return made, folder


def converted_logits(folder, example):
    parts = read_parts(str(folder))
    assert parts.prompt == "langbridge"
    model, tokenizer = assemble(parts, CPU)
    assert tokenizer is not None
    return model.language_model.logits(model.hidden(pack([example], model.language_model.specials)))


def test_langbridge_trains_as_its_authors_module_does(langbridge, base, tmp_path):
    """Loss and gradients of the linear layer and the end, two examples packed, against one at a time in theirs."""
    made, folder = langbridge
    assert main(["convert", str(folder), str(tmp_path / "model"), "--base", str(base)]) == 0
    model, _ = assemble(read_parts(str(tmp_path / "model")), CPU)
    model, made = model.double(), made.double()  # float32's own rounding is 2e-5 of a gradient here
    assert isinstance(model.connector, LayeredConnector)
    model.connector.requires_grad_(True)
    pairs = [((11, 5, 6, 1), (9, 8, 7, 2)), ((4, 1), (3, 2))]
    examples = [TokenizedExample(prompt_ids=(), target_ids=t, encoder_ids=e, language="sw") for e, t in pairs]
    loss = CausalObjective(model).loss_sum(pack(examples, model.language_model.specials))
    logits = [made.logits(e, t)[-len(t) :] for e, t in pairs]
    theirs = sum(
        nn.functional.cross_entropy(of, torch.tensor(t), reduction="sum")
        for of, (_, t) in zip(logits, pairs, strict=True)
    )
    torch.testing.assert_close(loss.double(), theirs, rtol=1e-6, atol=0)
    own = (model.connector.layers[0].weight, model.connector.layers[0].bias, model.connector.end_boundary)
    alignment = made.lb.alignment
    wanted = torch.autograd.grad(theirs, (alignment.linear.weight, alignment.linear.bias, alignment.enc_eos))
    for ours, right in zip(torch.autograd.grad(loss, own), wanted, strict=True):
        assert (ours - right).norm() <= 1e-6 * right.norm()


@torch.no_grad()
@pytest.mark.parametrize(
    "left_out", [(), ("lb.embeddings.weight",), ("lb.lm.embed_tokens.weight", "lb.enc.encoder.embed_tokens.weight")]
)
def test_langbridge_becomes_an_equal_mapping(langbridge, base, tmp_path, capsys, left_out):
    """Whichever name of a shared tensor a program kept: safetensors keeps one."""
    made, folder = langbridge
    state = {name: value for name, value in made.state_dict().items() if name not in left_out}
    if left_out:
        (folder / "pytorch_model.bin").unlink()
        save_file({name: value.clone() for name, value in state.items()}, folder / "model.safetensors")
    assert main(["convert", str(folder), str(tmp_path / "model"), "--base", str(base)]) == 0
    assert "no tokens for line breaks" not in capsys.readouterr().err
    (tmp_path / "model").rename(tmp_path / "moved")
    example = TokenizedExample(prompt_ids=(), target_ids=(9, 8, 7, 2), encoder_ids=(11, 5, 6, 1), language="sw")
    wanted = made.logits(example.encoder_ids, example.target_ids)
    assert torch.allclose(converted_logits(tmp_path / "moved", example), wanted, rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    "spoil,message",
    [
        (lambda state: state.pop("lb.lm_head.weight"), "lacks the tensor lm_head.weight"),
        (lambda state: state.pop("lb.lm.norm.weight"), "lacks the tensor model.norm.weight"),
        (
            lambda state: state.pop("lb.enc.encoder.final_layer_norm.weight"),
            "lacks the tensor encoder.final_layer_norm",
        ),
        (lambda state: state.update({"lb.adapter.weight": torch.zeros(2)}), "lb.adapter.weight, which has no place"),
        (lambda state: state["lb.embeddings.weight"].add_(1), "lb.embeddings.weight differ"),
    ],
)
def test_a_langbridge_that_is_not_whole_is_refused(langbridge, base, tmp_path, capsys, spoil, message):
    made, folder = langbridge
    state = {name: value.detach().clone() for name, value in made.state_dict().items()}
    spoil(state)
    torch.save(state, folder / "pytorch_model.bin")
    assert main(["convert", str(folder), str(tmp_path / "model"), "--base", str(base)]) == 2
    assert message in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "model").exists()


def test_a_langbridge_encoder_without_white_space_tokens_is_told(langbridge, base, tmp_path, capsys):
    """The authors' own tokenizer has them; mT5's, with which the same ids are in range, has not."""
    words = Tokenizer(WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path / "enc")
    assert main(["convert", str(langbridge[1]), str(tmp_path / "model"), "--base", str(base)]) == 0
    assert "no tokens for line breaks" in capsys.readouterr().err


def test_a_converted_langbridge_generates(langbridge, base, tmp_path, capsys):
    _, folder = langbridge
    assert main(["convert", str(folder), str(tmp_path / "model"), "--base", str(base)]) == 0
    assert main(["generate", str(tmp_path / "model"), "Ana ana 5.", "--language", "sw", "--max-new-tokens", "3"]) == 0


@pytest.mark.slow
def test_universal_checkpoints_of_deepspeed(base, tmp_path):
    """Written by DeepSpeed itself, two ranks, ZeRO-1 and ZeRO-3, through its own ds_to_universal.py."""
    pytest.importorskip("deepspeed", reason="extra deepspeed")
    ranks.run(2, ["-m", "tests.conversion.universal_worker", str(base), str(tmp_path)])
    for stage in (1, 3):
        source, target = tmp_path / f"zero{stage}_universal", tmp_path / f"model{stage}"
        assert main(["convert", str(source), str(target), "--base", str(base)]) == 0
        expected = load_file(tmp_path / f"expected{stage}.safetensors")
        assert not torch.equal(expected["lm_head.weight"], load_file(base / "model.safetensors")["lm_head.weight"])
        equal_weights(target, expected)


@pytest.mark.parametrize(
    "spoil, options, expected",
    [
        (
            lambda f: (f / "pytorch_model-00002-of-00002.bin").unlink(),
            [],
            "lacks its shard pytorch_model-00002-of-00002",
        ),
        (
            lambda f: (f / "pytorch_model-00001-of-00002.bin").write_bytes(b"PK, cut"),
            [],
            "is not a checkpoint of plain",
        ),
        (lambda f: (f / "pytorch_model.bin.index.json").write_text("{cut"), [], "index.json:1 is not valid JSON"),
        (lambda f: (f / "pytorch_model.bin.index.json").unlink(), [], "holds none of model.safetensors.index.json"),
    ],
)
def test_broken_folders_are_refused(base, tmp_path, capsys, spoil, options, expected):
    as_torch_shards(base, tmp_path / "old")
    spoil(tmp_path / "old")
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "new"), *options]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("*new*")), "nothing half-made"


def test_bad_conversions_are_one_sentence(langbridge, base, tmp_path, capsys):
    made, folder = langbridge

    def refused(*arguments):
        assert main(["convert", *map(str, arguments)]) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "made from org/not-here, which is no folder here: name a local copy with --base" in refused(
        folder, tmp_path / "a"
    )
    (tmp_path / "a").mkdir()
    assert "exists already" in refused(folder, tmp_path / "a")
    assert "name a folder to write" in refused(base, tmp_path / "x.bin")
    state = {k.replace("alignment.linear", "alignment.ffn"): v.clone() for k, v in made.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")
    assert "only the linear one" in refused(folder, tmp_path / "b", "--base", base)
    zero = tmp_path / "step_universal" / "zero"
    (zero / "lm_head.weight").mkdir(parents=True)
    assert "has no configuration" in refused(zero.parent, tmp_path / "c")
    assert "has no parameter model.embed_tokens.weight" in refused(zero.parent, tmp_path / "c", "--base", base)
    for name in load_file(base / "model.safetensors"):
        (zero / name).mkdir(exist_ok=True)
    assert "fp32.pt is missing" in refused(zero.parent, tmp_path / "c", "--base", base)
    for name in load_file(base / "model.safetensors"):
        torch.save({"param": torch.zeros(2, 3)}, zero / name / "fp32.pt")
    assert "has shape [2, 3]" in refused(zero.parent, tmp_path / "c", "--base", base)
