"""Checkpoints of other programs: converted exactly, loaded by us and by transformers, refused by name when partial."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, T5Config, T5EncoderModel

from mmscale.cli.main import main
from mmscale.conversion.hugging_face import to_safetensors
from mmscale.data.packing import pack
from mmscale.data.segments import TokenizedExample
from mmscale.models.assembly import assemble, read_parts
from mmscale.parallel.layout import Layout
from tests.conftest import random_causal_lm
from tests.distributed import ranks

CPU = Layout(torch.device("cpu"))


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
    """The authors' module tree: lb.enc, lb.alignment.linear, lb.alignment.enc_eos, lb.lm."""

    def __init__(self, lm, encoder):
        super().__init__()
        self.lb = nn.Module()
        self.lb.enc, self.lb.lm, self.lb.alignment = encoder, lm, nn.Module()
        self.lb.alignment.linear = nn.Linear(encoder.config.d_model, lm.config.hidden_size)
        self.lb.alignment.enc_eos = nn.Parameter(torch.randn(lm.config.hidden_size))

    def logits(self, encoder_ids, target_ids):
        """[BOS] ; Linear(encoder) ; enc_eos ; target."""
        states = self.lb.enc(input_ids=torch.tensor([encoder_ids])).last_hidden_state[0]
        embed = self.lb.lm.get_input_embeddings()
        parts = [embed(torch.tensor([1])), self.lb.alignment.linear(states), self.lb.alignment.enc_eos[None]]
        inputs = torch.cat([*parts, embed(torch.tensor(target_ids[:-1], dtype=torch.int64))])
        return self.lb.lm(inputs_embeds=inputs[None]).logits[0]


@pytest.fixture
def langbridge(base, tmp_path, tinyworld_tokenizers):
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
    settings = {"model_type": "langbridge", "alignments": "linear", "enc": str(tmp_path / "enc"), "lm": "org/not-here"}
    (folder / "config.json").write_text(json.dumps(settings))
    return made, folder


@torch.no_grad()
def test_langbridge_becomes_an_equal_mapping(langbridge, base, tmp_path):
    made, folder = langbridge
    assert main(["convert", str(folder), str(tmp_path / "model"), "--base", str(base)]) == 0
    (tmp_path / "model").rename(tmp_path / "moved")
    parts = read_parts(str(tmp_path / "moved"))
    assert parts.prompt == "langbridge"
    model, tokenizer = assemble(parts, CPU)
    assert tokenizer is not None
    example = TokenizedExample((), (9, 8, 7, 2), (11, 5, 6, 1), "sw")
    found = model.language_model.logits(model.hidden(pack([example], model.language_model.specials)))
    assert torch.allclose(found, made.logits(example.encoder_ids, example.target_ids), rtol=0, atol=1e-5)


def test_a_converted_langbridge_generates(langbridge, base, tmp_path, capsys):
    _, folder = langbridge
    assert main(["convert", str(folder), str(tmp_path / "model"), "--base", str(base)]) == 0
    assert main(["generate", str(tmp_path / "model"), "Ana ana 5.", "--language", "sw", "--max-new-tokens", "3"]) == 0


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
