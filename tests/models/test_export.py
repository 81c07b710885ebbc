"""What is handed on stops where ours does, in any program; all ranks write it, and none waits long for another."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmscale.config.model import LanguageModelConfig
from mmscale.models.export import export
from mmscale.models.language_model import load_language_model
from mmscale.parallel.context import ParallelContext
from tests.conftest import random_causal_lm
from tests.distributed import ranks

HERE = ParallelContext(device=torch.device("cpu"))


@pytest.fixture
def base(tmp_path, tinyworld_tokenizers):
    model = random_causal_lm("llama", "sdpa").float()
    model.resize_token_embeddings(len(tinyworld_tokenizers[0]))
    torch.manual_seed(3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "base")
    tinyworld_tokenizers[0].save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_other_programs_stop_where_ours_does(base, tmp_path):
    """The token that a plain model says as its fourth is made our end of text; the exported one then ends with it."""
    ids = torch.tensor([[1, 9, 8, 7]])
    settings = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 0}
    said = AutoModelForCausalLM.from_pretrained(base).generate(ids, eos_token_id=2, **settings)[0, 4:].tolist()
    end = next(i for i in range(3, 12) if said[i] not in said[:i])
    tokenizer = AutoTokenizer.from_pretrained(base)
    named = {"eos_token": tokenizer.convert_ids_to_tokens(said[end]), "bos_token": tokenizer.convert_ids_to_tokens(5)}
    model = load_language_model(LanguageModelConfig(path=str(base), **named), HERE)
    weights = dict(model.causal_lm.named_parameters())
    (tmp_path / "out").mkdir()
    export(model, lambda name: weights[name].detach(), tmp_path / "out", HERE)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert plain.generate(ids, **settings)[0, 4:].tolist() == said[: end + 1]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id) == (said[end], 5)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["eos_token_id"], config["bos_token_id"]) == (said[end], 5)
    assert set(plain.generation_config.eos_token_id) == {said[end], 2}, "ours ends there too"
    assert (model.config.eos_token_id, model.tokenizer.eos_token_id) == (2, 2), "the model itself stays as it was"


def test_ranks_write_shards_in_turns_within_a_short_time_out(base, tmp_path):
    """Every shard takes a second to write; one rank alone would keep the other in a collective for longer than the time-out."""
    said = ranks.output(2, ["-m", "tests.models.export_worker", str(base), str(tmp_path / "out")])
    assert json.loads(said.strip().splitlines()[-1])["seconds"] > 10
    found, expected = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (tmp_path / "out", base))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert len(list((tmp_path / "out").glob("model-*-of-00021.safetensors"))) == 21
