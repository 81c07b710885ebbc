"""Every tensor is accounted for: what is missing, left over, of another shape or damaged is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MixtralConfig,
    T5Config,
    T5ForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from mmscale.cli.main import main
from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.errors import UserError
from mmscale.models.accounting import require_finite
from mmscale.models.connectors import mlp
from mmscale.models.connectors.mlp import MLPConnector
from mmscale.models.encoders import load_encoder
from mmscale.models.language_model import load_language_model
from mmscale.models.tensor_files import TensorFiles
from mmscale.parallel.context import ParallelContext
from tests.distributed import ranks

HERE = ParallelContext(device=torch.device("cpu"))
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
    "max_position_embeddings": 128,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "tied": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "mixtral": lambda: MixtralConfig(**SHAPE, num_local_experts=4),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory, tinyworld_tokenizers):
    """name -> folder of a whole random model."""
    root = tmp_path_factory.mktemp("sound")
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config()).save_pretrained(root / name)
        tinyworld_tokenizers[0].save_pretrained(root / name)
    return root


def copied(sound: Path, name: str, target: Path) -> Path:
    return Path(shutil.copytree(sound / name, target / "model"))


def edit(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def set_config(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def drop(pattern: str):
    return lambda weights: [weights.pop(name) for name in list(weights) if pattern in name]


def rename(old: str, new: str):
    return lambda weights: [weights.__setitem__(n.replace(old, new), weights.pop(n)) for n in list(weights)]


def put(name: str, make):
    return lambda weights: weights.__setitem__(name, make(weights))


def as_torch(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def halved(file: str):
    def cut(folder: Path) -> None:
        if file.endswith(".bin"):
            as_torch(folder)
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])

    return cut


def replaced(file: str, content: bytes):
    return lambda folder: (folder / file).write_bytes(content)


def sharded(change):
    """Two shards by an index that `change` makes lie."""

    def cut(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names, shards = sorted(weights), ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
        index = {name: shards[i % 2] for i, name in enumerate(names)}
        for shard in shards:
            save_file({n: weights[n] for n in names if index[n] == shard}, folder / shard, {"format": "pt"})
        change(folder, index)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))

    return cut


FIRST = "lm_head.weight"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 13476925163\n"
DAMAGE = {
    "a layer": ("llama", drop(".layers.2."), r"lacks the tensor model\.layers\.2\.\S+ \(9 are missing\)"),
    "the head": ("llama", drop("lm_head"), r"lacks the tensor lm_head\.weight"),
    "all but one": ("llama", lambda w: [w.pop(n) for n in list(w)[1:]], r"lacks the tensor .*29 are missing"),
    "a wrapper's names": ("llama", rename("", "module."), r"lacks the tensor lm_head\.weight \(30 are missing\)"),
    "an expert": ("mixtral", drop("layers.1.block_sparse_moe.experts.3.w2"), r"layers\.1\.mlp\.experts\.down_proj"),
    "a left-over": ("llama", put("v_head.weight", lambda w: torch.ones(2)), r"holds the tensor v_head\.weight"),
    "a tie that is none": ("tied", put(FIRST, lambda w: w["model.embed_tokens.weight"] + 1), r"differ, though .* ties"),
    "integers": ("llama", put(FIRST, lambda w: w[FIRST].to(torch.int8)), r"lm_head\.weight holds int8, as quantised"),
    "NaN": ("llama", put(FIRST, lambda w: torch.full((2048, 64), torch.nan)), r"lm_head\.weight holds NaN"),
}
FILES = {
    "too few layers": (lambda f: set_config(f, num_hidden_layers=2), r"holds the tensor model\.layers\.2"),
    "too many layers": (lambda f: set_config(f, num_hidden_layers=4), r"lacks the tensor model\.layers\.3"),
    "another width": (lambda f: set_config(f, intermediate_size=128), r"has shape \[64, 96\], config.json says"),
    "gptq": (lambda f: set_config(f, quantization_config={"quant_method": "gptq", "bits": 4}), r"already \(gptq\)"),
    "awq": (lambda f: set_config(f, quantization_config={"quant_method": "awq", "bits": 4}), r"already \(awq\)"),
    "named weights": (lambda f: set_config(f, transformers_weights="../other.safetensors"), "transformers_weights"),
    "an adapter": (replaced("adapter_config.json", b'{"peft_type": "LORA"}'), "holds an adapter"),
    "a git-lfs pointer": (replaced("model.safetensors", POINTER), "git-lfs pointer.*git lfs pull"),
    "an empty file": (replaced("model.safetensors", b""), "is empty"),
    "half a download": (halved("model.safetensors"), "half a download"),
    "half a pickle": (halved("pytorch_model.bin"), "plain tensors, or damaged"),
    "a million layers": (lambda f: set_config(f, num_hidden_layers=10**6), "counts more num_hidden_layers than any"),
    "4000 layers": (lambda f: set_config(f, num_hidden_layers=4000), "a far larger model than the checkpoint holds"),
    "a wide head": (lambda f: set_config(f, head_dim=10**9), "a far larger model than the checkpoint holds"),
    "no width": (lambda f: set_config(f, head_dim=0), "describes no model that can be built"),
    "a negative width": (lambda f: set_config(f, intermediate_size=-1), "describes no model that can be built"),
    "a dtype that is none": (lambda f: set_config(f, dtype=5), "describes no model that can be built"),
    "no context": (lambda f: set_config(f, max_position_embeddings=-1), "names no context of tokens"),
    "a count in letters": (lambda f: set_config(f, num_hidden_layers="three"), r"num_hidden_layers'?: .*int"),
    "half a config": (halved("config.json"), "config.json is not valid JSON"),
    "no pickle": (lambda f: (as_torch(f), (f / "pytorch_model.bin").write_bytes(b"\x80\x02}q")), "or damaged"),
    "a shard that is not there": (
        sharded(lambda f, index: index.__setitem__(FIRST, "model-00003-of-00002.safetensors")),
        "lacks its shard model-00003",
    ),
    "the wrong shard": (
        sharded(lambda f, index: index.__setitem__(FIRST, "model-00002-of-00002.safetensors")),
        r"tensor lm_head\.weight is (not )?in model",
    ),
    "a shard outside": (
        sharded(lambda f, index: index.__setitem__(FIRST, "../model-00001-of-00002.safetensors")),
        "which is no file beside it",
    ),
    "a tensor that is listed nowhere": (
        sharded(lambda f, index: index.pop(FIRST)),
        r"lm_head\.weight is in .* does not name it",
    ),
    "two models": (
        sharded(lambda f, index: save_file({"x": torch.ones(1)}, f / "model.safetensors")),
        "holds both model.safetensors and shards",
    ),
}


def refused(folder: Path, message: str, capsys) -> None:
    """By `mmscale generate`: exit code 2 and one line that names the folder."""
    assert main(["generate", str(folder), "Hi", "--prompt", "tinyworld_math", "--max-new-tokens", "2"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    with pytest.raises(UserError, match=message):
        raise UserError(error)
    assert str(folder) in error and error.startswith("mmscale: ")


@pytest.mark.parametrize("kind", DAMAGE)
def test_tensors_that_do_not_fit_are_refused_by_name(sound, tmp_path, capsys, kind):
    family, change, message = DAMAGE[kind]
    folder = copied(sound, family, tmp_path)
    edit(folder, change)
    refused(folder, message, capsys)


@pytest.mark.parametrize("kind", FILES)
def test_damaged_and_lying_files_are_one_sentence(sound, tmp_path, capsys, kind):
    change, message = FILES[kind]
    folder = copied(sound, "llama", tmp_path)
    change(folder)
    refused(folder, message, capsys)


def test_what_is_whole_loads_as_transformers_loads_it(sound, tmp_path, capsys):
    """Tied heads given once or twice, torch's files, shards, and buffers that old checkpoints hold."""

    def both(folder):
        edit(folder, put(FIRST, lambda w: w["model.embed_tokens.weight"].clone()))

    def head_alone(folder):
        edit(folder, lambda w: w.__setitem__(FIRST, w.pop("model.embed_tokens.weight")))

    def zeros(folder):
        edit(folder, lambda w: w["model.layers.1.self_attn.o_proj.weight"].zero_())

    def buffers(folder):
        edit(folder, put("model.layers.0.self_attn.rotary_emb.inv_freq", lambda w: torch.ones(8)))

    for number, (family, change) in enumerate(
        [("tied", both), ("tied", head_alone), ("llama", as_torch), ("llama", buffers), ("mixtral", lambda f: None)]
        + [("llama", sharded(lambda f, index: None)), ("llama", zeros)]
    ):
        (tmp_path / str(number)).mkdir()
        folder = copied(sound, family, tmp_path / str(number))
        change(folder)
        found = load_language_model(LanguageModelConfig(path=str(folder)), HERE).causal_lm.state_dict()
        expected = AutoModelForCausalLM.from_pretrained(sound / family).state_dict()
        if change is zeros:
            assert (
                "model.layers.1.self_attn.o_proj.weight holds nothing but zeros (1 of 30 tensors)"
                in capsys.readouterr().err
            )
            expected["model.layers.1.self_attn.o_proj.weight"].zero_()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items()), (family, number)


def test_an_encoder_may_leave_its_other_half_and_nothing_else(tmp_path):
    t5 = T5Config(vocab_size=64, d_model=24, d_kv=6, num_heads=4, d_ff=32, num_layers=2)
    roberta = XLMRobertaConfig(
        vocab_size=64, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32
    )
    for name, made, pattern in (
        ("t5", T5ForConditionalGeneration(t5), "encoder.block.1."),
        ("roberta", XLMRobertaForMaskedLM(roberta), "roberta.encoder.layer.1."),
    ):
        folder = tmp_path / name
        made.save_pretrained(folder)
        load_encoder(EncoderConfig(path=str(folder)), HERE.device)
        edit(folder, drop(pattern))
        with pytest.raises(UserError, match=r"lacks the tensor \S*(block|layer)\.1\."):
            load_encoder(EncoderConfig(path=str(folder)), HERE.device)


def test_cut_and_partitioned_loads_refuse_the_same(sound, tmp_path):
    """Tensor parallelism and ZeRO-3 on two real ranks: every rank ends with the sentence, none waits."""
    pytest.importorskip("megatron.core", reason="extra tensor-parallel")
    pytest.importorskip("deepspeed", reason="extra deepspeed")
    chosen = {"a layer": DAMAGE["a layer"], "a left-over": DAMAGE["a left-over"], "NaN": DAMAGE["NaN"]}
    for number, (_, change, _) in enumerate(chosen.values()):
        (tmp_path / str(number)).mkdir()
        edit(copied(sound, "llama", tmp_path / str(number)), change)
    said = json.loads(ranks.output(2, ["-m", "tests.models.accounting_worker", str(tmp_path)]).strip().splitlines()[-1])
    for kind in ("tensor", "zero"):
        for number, (_, _, message) in enumerate(chosen.values()):
            for rank in range(2):
                with pytest.raises(UserError, match=message):
                    raise UserError(said[rank][kind][number])


@pytest.mark.parametrize("damage", ["pointer", "half", "empty", "bit", "nan", "zeros", "a row", "whole numbers"])
@pytest.mark.parametrize("name", ["mapping.safetensors", "pytorch_model.bin"])
def test_a_damaged_mapping_is_one_sentence(tmp_path, capsys, damage, name):
    path = tmp_path / name
    made = MLPConnector(6, 10)
    if damage == "nan":
        torch.nn.init.constant_(made.mlp.linear1.bias, torch.nan)
    if damage in ("zeros", "a row"):
        for parameter in made.parameters() if damage == "zeros" else [made.mlp.linear2.weight[3]]:
            parameter.data.zero_()
    (mlp.CONNECTOR.write if name.endswith("safetensors") else mlp.write_authors_format)(made, path)
    content = path.read_bytes()
    if damage == "whole numbers":
        state = {key: value.int() for key, value in made.state_dict().items()}
        save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
    elif damage not in ("nan", "zeros", "a row"):
        changed = {"pointer": POINTER, "half": content[: len(content) // 2], "empty": b"", "bit": b"\xff" + content[1:]}
        path.write_bytes(changed[damage])
    assert main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mmscale: {path}") and error.count("\n") == 1


def test_a_file_that_ends_early_is_not_taken_for_ctrl_c(monkeypatch, capsys):
    def ended(*_):
        raise EOFError("ran out of input")

    monkeypatch.setattr("mmscale.models.connectors.base.ConnectorKind.read", ended)
    with pytest.raises(EOFError):
        main(["convert", "x.bin", "y.safetensors"])
    assert "stopped" not in capsys.readouterr().err


@pytest.mark.parametrize("path", ["here/nothing", "here/", "here\\nothing"])
def test_a_folder_that_is_not_there_is_no_matter_of_the_network(tmp_path, monkeypatch, capsys, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert main(["generate", path, "Hi"]) == 2
    error = capsys.readouterr().err
    assert "huggingface.co" not in error and path in error


@pytest.mark.parametrize("path", ["nobody/nothing-of-this-name", "my model", "a..b", "{0}"])
def test_a_hub_id_that_cannot_be_had_may_be_a_folder_that_is_missing(capsys, monkeypatch, path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["generate", path, "Hi"]) == 2
    assert "there is no such folder here, and the hub" in capsys.readouterr().err


@pytest.mark.parametrize("which", [0, 1])
def test_weights_that_went_to_nvme_are_looked_at_in_their_files(tmp_path, which):
    """Under ZeRO-3 a rank then holds nothing of them in memory."""
    names = ["a.weight", "b.weight"]
    tensors = {name: torch.ones(4, 4) for name in names}
    model = torch.nn.Linear(4, 4)
    for parameter, left in zip(model.parameters(), (torch.tensor(1.0).half(), torch.empty(0)), strict=True):
        part: Any = left
        part.ds_numel = 8
        parameter.__dict__["ds_tensor"] = part
    save_file(tensors, tmp_path / "model.safetensors")
    here = ParallelContext(device=torch.device("cpu"))
    require_finite(model, TensorFiles(tmp_path), "x", here)
    tensors[names[which]][1, 1] = float("inf")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"x: tensor {names[which]} holds NaN or infinity"):
        require_finite(model, TensorFiles(tmp_path), "x", here)
