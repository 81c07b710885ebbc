"""`mmscale plan` on the published shapes: fits or not, the layout that does, one JSON object; and hand-worked formulas."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from mmscale.cli.main import main
from mmscale.config.cluster import GpuConfig
from mmscale.config.run import load_run
from mmscale.config.training import StageConfig
from mmscale.planning import throughput, traffic
from mmscale.planning.memory import Trained
from mmscale.planning.parallel_plan import ParallelPlan
from mmscale.planning.plan import Planner

EXAMPLES = ["--examples", "128000", "--example-tokens", "300", "--target-tokens", "100"]


def paths_of(public_data, folder, config: str, llm: str) -> list[str]:
    """Overrides that replace a shipped configuration's models by config.json alone."""

    def model(name: str) -> str:
        (folder / name).mkdir(exist_ok=True)
        shutil.copy(public_data / "configs" / f"{name}.config.json", folder / name / "config.json")
        return str(folder / name)

    paths = [f"language_model.path={model(llm)}"]
    if "proxy_tuning" in config:
        paths.append(f"proxy.base.path={model('llama-2-70b')}")
    merged = "mindmerger" in config or "layalign" in config
    return [*paths, f"encoder.path={model('mt5-xl.UNVERIFIED')}"] if merged else paths


@pytest.fixture
def plan(public_data, tmp_path, capsys):
    """(exit code, output) of `mmscale plan` for a shipped configuration, its models replaced by config.json alone."""

    def run(config: str, llm: str, *more: str) -> tuple[int, str, str]:
        paths = paths_of(public_data, tmp_path, config, llm)
        code = main(["plan", config, *paths, "--cluster", "configs/cluster/h100.yaml", *EXAMPLES, *more])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_shipped_70b_fits_and_is_one_json_object(plan):
    code, out, _ = plan("configs/mindmerger/llama2-70b-mt5-xl.yaml", "llama-2-70b", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["fits"] and found["parameters"]["llm"] == 68_976_648_192
    assert found["parameters"]["trainable"] == found["parameters"]["connector"]
    stage = found["stages"]["mindmerger.mapping"]
    bytes_of = stage["memory_bytes"]
    assert bytes_of["optimizer"] == 8 * stage["parameters"]["connector"], "two float32 moments, replicated"
    shards = stage["layout"]["tensor_parallel_size"]
    assert bytes_of["llm_weights"] == pytest.approx(2 * 68_976_648_192 / shards, rel=1e-3)
    assert bytes_of["encoder_weights"] == 0, "three epochs: its states come from disk"
    assert bytes_of["peak"] <= found["gpu_memory_bytes"]
    assert stage["steps"] == 3000 and stage["gpu_hours"] == pytest.approx(3000 * stage["step_seconds"] * 32 / 3600)
    limits = load_run("configs/mindmerger/llama2-70b-mt5-xl.yaml").recipes["mindmerger"]["mapping"].packing
    longest = limits.max_encoder_tokens + limits.max_prompt_tokens + limits.max_target_tokens
    states = 128_000 * (300 - 1) * limits.max_encoder_tokens / longest  # all but the boundary
    assert stage["encoder_cache_bytes"] == pytest.approx(states * 2048 * 2, rel=1e-6), "bfloat16, 2,048 wide"
    assert 0.1 < found["mfu"] < 0.5 and found["tokens_per_s_per_gpu"] > 0
    assert (
        found["inference"]["memory_bytes"]["key_value_cache"] == 2 * 80 * 8 * 128 * (513 + 512 + 512) * 32 * 2 // shards
    )
    assert found["inference"]["fits"], "cut over the tensor group, as it is evaluated"


def test_proxy_tuning_is_planned(plan):
    """A 70B in eight parts, steered by a 7B pair in eight parts: bytes by hand, and the roof of speculation."""
    code, out, err = plan("configs/proxy_tuning/llama2-70b-by-7b.yaml", "llama-2-7b", "--json")
    assert code == 0, err
    found = json.loads(out)["inference"]["proxy"]
    held = found["memory_bytes"]
    assert held["base_weights"] == round(2 * 68_976_648_192 / 8) and held["small_weights"] == 4 * 2 * 6_738_415_616 // 8
    tokens = 512 + 600
    base, small = 2 * 80 * 8 * 128 * tokens * 2, 2 * 32 * 32 * 128 * tokens * 4
    assert held["key_value_cache"] == 32 * (base + 2 * small) // 8
    speeds = found["tokens_per_s"]
    assert speeds["plain"] < speeds["by_acceptance"]["0.6"] < speeds["by_acceptance"]["0.9"]
    assert found["fits"]


def test_a_frozen_70b_in_four_bits_is_planned_for_one_gpu(plan):
    whole = ["parallel.tensor_parallel_size=1", "parallel.zero.stage=0", "language_model.quantization=nf4"]
    code, out, err = plan("configs/mindmerger/llama2-70b-mt5-xl.yaml", "llama-2-70b", *whole, "--json")
    assert code == 0, err
    held = json.loads(out)["stages"]["mindmerger.mapping"]["memory_bytes"]
    layers = 80 * (2 * 8192 * 8192 + 2 * 1024 * 8192 + 3 * 8192 * 28672)
    assert held["llm_weights"] == round(layers * (0.5 + 1 / 64 + 4 / 16384)) + 2 * (68_976_648_192 - layers)
    assert held["dequantized_layer"] == 2 * 8192 * 28672


@pytest.mark.parametrize("config", ["question_alignment", "multilingual_cot"])
@pytest.mark.parametrize("size", ["7b", "13b", "70b"])
def test_every_shipped_full_fine_tuning_fits_four_nodes(plan, config, size):
    """While they load, train, save and answer."""
    code, out, err = plan(f"configs/{config}/llama2-{size}.yaml", f"llama-2-{size}", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["fits"] and found["inference"]["fits"] and not found["tight"]
    for stage in found["stages"].values():
        held = stage["memory_bytes"]
        assert max(held["peak"], held["peak_loading"], held["peak_saving"]) <= 0.92 * found["gpu_memory_bytes"]


def test_an_evaluation_that_does_not_fit_is_no_plan_that_fits(plan):
    whole = ["language_model.dtype=float32", "parallel.tensor_parallel_size=2", "--json"]
    code, out, err = plan("configs/question_alignment/llama2-70b.yaml", "llama-2-70b", *whole)
    found = json.loads(out)
    assert all(stage["fits"] for stage in found["stages"].values()) and not found["inference"]["fits"]
    assert code == 2 and not found["fits"]
    assert "evaluation needs 1" in err and "hold the model with dtype=bfloat16" in err.replace("\n", " ")


def test_little_room_is_called_tight(plan):
    whole = ["language_model.dtype=bfloat16", "parallel.tensor_parallel_size=2"]
    code, out, err = plan("configs/question_alignment/llama2-70b.yaml", "llama-2-70b", *whole)
    assert code == 0 and "(fits, but tight)" in out, err


def test_what_does_not_fit_is_said_with_numbers_and_the_layout_that_does(plan):
    alone = ["parallel.tensor_parallel_size=1", "parallel.zero.stage=0"]
    code, out, err = plan("configs/mindmerger/llama2-70b-mt5-xl.yaml", "llama-2-70b", *alone)
    assert code == 2 and "does not fit" in out
    said = err.replace("\n", " ")
    assert "mindmerger.mapping needs 13" in said and "GiB on each GPU, which has 74.5" in said
    remedy = said.split("the fastest layout that fits is ")[1].split()
    fewer = [
        f"evaluation.tasks.{task}.generation.batch_size=16" for task in ("mgsm", "msvamp")
    ]  # answers need room as well
    code, out, _ = plan("configs/mindmerger/llama2-70b-mt5-xl.yaml", "llama-2-70b", *remedy, *fewer, "--search")
    assert code == 0 and "layouts that fit" in out


def test_a_degree_that_does_not_divide_the_heads_is_refused(plan):
    code, _, err = plan("configs/question_alignment/llama2-70b.yaml", "llama-2-70b", "parallel.tensor_parallel_size=16")
    assert code == 2 and "does not divide num_key_value_heads=8" in err.replace("\n", " ")


def test_traffic_by_hand():
    trained = Trained(
        llm=(1_000_000,),
        encoder=(),
        connector=(),
        trains_llm=True,
        llm_dtype="float32",
        encoder_dtype="float32",
        autocast=True,
    )
    part = 2_000_000 * 3 // 4  # P is 2 B an element; a ring of four sends 3/4 of it
    # DeepSpeed all-reduces gradients, 2 P, and gathers new parameters, P; stage 2 reduces those of every row
    assert traffic.traffic(trained, ParallelPlan(4, 1, 1), traffic.Step(2, 0, 2, False)).data == 3 * part
    assert traffic.traffic(trained, ParallelPlan(4, 1, 2), traffic.Step(2, 0, 2, False)).data == (2 * 2 + 1) * part
    # ZeRO paper, section 7: 3 P a row, unless what the forward pass gathered is still there
    assert traffic.traffic(trained, ParallelPlan(4, 1, 3), traffic.Step(1, 0, 2, False), reused=0).data == 3 * part
    assert traffic.traffic(trained, ParallelPlan(4, 1, 3), traffic.Step(2, 0, 2, False), reused=0).data == 2 * 3 * part
    assert traffic.traffic(trained, ParallelPlan(4, 1, 3), traffic.Step(2, 0, 2, False)).data == 2 * 2 * part
    # two layers of four all-reduces, one more each where recomputed, the embedding's and the head's: 1000 B, of which each
    # rank of a ring of two sends 1000
    assert traffic.traffic(trained, ParallelPlan(2, 2, 0), traffic.Step(1, 1000, 2, False)).tensor == 10 * 1000
    assert traffic.traffic(trained, ParallelPlan(2, 2, 0), traffic.Step(1, 1000, 2, True)).tensor == 12 * 1000
    # a quarter of the rows is read: three of the last layer's four, four of its five, and the head's are of these alone
    assert traffic.traffic(trained, ParallelPlan(2, 2, 0), traffic.Step(1, 1000, 2, False, targets=0.25)).tensor == 7000
    assert traffic.traffic(trained, ParallelPlan(2, 2, 0), traffic.Step(1, 1000, 2, True, targets=0.25)).tensor == 8250
    sequence = ParallelPlan(2, 2, 0, sequence_parallel=True)
    assert traffic.traffic(trained, sequence, traffic.Step(1, 1000, 2, False)).tensor == 11 * 1000
    assert traffic.traffic(trained, sequence, traffic.Step(1, 1000, 2, True)).tensor == 14 * 1000
    sent = traffic.Traffic(450_000_000_000, 50_000_000_000)
    assert traffic.seconds(sent, ParallelPlan(32, 8, 0), GpuConfig(), 8) == (1.0, 1.0), (
        "links inside, network between nodes"
    )


def test_operations_by_hand():
    """A layer-less count: 6 P a token trained, 4 P frozen, recomputation one forward more, attention 12 L h S."""
    shape = SimpleNamespace(
        hidden_size=10, num_hidden_layers=3, num_attention_heads=2, vocab_size=7, tie_word_embeddings=False
    )
    trained = throughput.token_work(shape, 1140, 100, 1.0, True, True)
    assert trained.model == 6 * (1140 - 70) + 12 * 3 * 10 * 100
    assert trained.forward == 2 * (1140 - 70) + 2 * 3 * 10 * 100
    assert trained.hardware == 4 * trained.forward
    frozen = throughput.token_work(shape, 1140, 100, 1.0, False, False)
    assert frozen.model == 4 * (1140 - 70) + 8 * 3 * 10 * 100 and frozen.hardware == 2 * frozen.forward


@pytest.mark.parametrize(
    ("attention", "precision", "gpus", "flash"),
    [
        ("auto", "bfloat16", 8, True),
        ("torch_varlen", "bfloat16", 8, True),
        ("packed_sdpa", "bfloat16", 8, False),
        ("auto", "float32", 8, False),
        ("auto", "bfloat16", 0, False),
    ],
)
def test_a_plan_takes_flash_attention_where_a_gpu_runs_it(attention, precision, gpus, flash):
    run = SimpleNamespace(language_model=SimpleNamespace(attention=attention, dtype="float32"))
    planner = SimpleNamespace(run=run, cluster=SimpleNamespace(gpus_per_node=gpus))
    stage = SimpleNamespace(config=StageConfig(steps=1, precision=precision), changes_language_model=True)
    assert Planner.work(planner, stage, ParallelPlan(1, 1, 0), 8, 4).flash is flash  # type: ignore[arg-type]


def test_a_qformers_rows_activations_and_operations_are_planned(plan):
    """Its prefix is as long whatever the text, so an example of 300 tokens holds more of the encoder's; two layers by hand."""
    config, chosen = "configs/mindmerger/llama2-7b-mt5-xl.yaml", "connector={kind: qformer, queries: 16, width: 1024}"
    found, plain = (json.loads(plan(config, "llama-2-7b", *more, "--json")[1]) for more in ([chosen], []))
    stage, usual = (one["stages"]["mindmerger.mapping"] for one in (found, plain))
    attention, crossing = (
        4 * (1024 * 1024 + 1024) + 2 * 1024,
        2 * (1024 * 1024 + 1024) + 2 * (2048 * 1024 + 1024) + 2048,
    )
    forward = 2 * 4 * 1024 * 1024 + 4 * 1024 + 1024 + 2 * 1024
    elements = 2 * (attention + crossing + forward) + 16 * 1024 + 2 * 1024 + 1024 * 4096 + 4096 + 4096
    assert found["parameters"]["connector"] == elements
    limits = load_run(config).recipes["mindmerger"]["mapping"].packing
    text = limits.max_prompt_tokens + limits.max_target_tokens
    states = 128_000 * (300 - 17) * limits.max_encoder_tokens / text
    assert stage["encoder_cache_bytes"] == pytest.approx(states * 2048 * 2, rel=1e-6)
    assert stage["memory_bytes"]["connector_activations"] > usual["memory_bytes"]["connector_activations"] > 0
    short, long = (one["inference"]["memory_bytes"]["key_value_cache"] for one in (found, plain))
    assert long - short == 2 * 32 * 4096 * (513 - 17) * 32 * 2, "keys and values of 32 layers, a batch of 32, bfloat16"


def test_what_layalign_mixes_keeps_and_computes_is_planned(plan):
    """mT5-xl has 24 layers of width 2,048, LLaMA-2-7B 32 of 4,096; MindMerger's plan of the same examples beside."""
    config, other = "configs/layalign/metamath-7b-mt5-xl.yaml", "configs/mindmerger/metamath-7b-mt5-xl.yaml"
    found, plain = (json.loads(plan(one, "llama-2-7b", "--json")[1]) for one in (config, other))
    stage, usual = found["stages"]["layalign.translation"], plain["stages"]["mindmerger.mapping"]
    mixer = 24 * 64 + 64 + 2048 * 4096 + 4096
    assert found["parameters"]["connector"] == plain["parameters"]["connector"] + mixer + 32
    assert stage["encoder_cache_bytes"] == 25 * usual["encoder_cache_bytes"]
    short, long = (one["inference"]["memory_bytes"]["key_value_cache"] for one in (plain, found))
    assert long - short == 2 * 32 * 4096 * 512 * 32 * 2, "keys and values of the encoder's text, too"
    tokens = usual["encoder_cache_bytes"] / 128_000 / 2048 / 2 * (stage["row_tokens"] // 300)
    made = 2 * 32 * tokens * 4096 * 2
    assert stage["memory_bytes"]["connector_activations"] > made, "what the layers read, bfloat16"
    assert stage["step_seconds"] > usual["step_seconds"]
