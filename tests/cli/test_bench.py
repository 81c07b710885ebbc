"""`mmscale bench`: scripts by name, their result files, and the gates of the compiled kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import kernels, plan_check, proxy_costs, proxy_decode, proxy_ways, recording
from benchmarks.memory import OUT_OF_MEMORY
from benchmarks.proxy_agreement import agreement, near_tie
from benchmarks.proxy_published import PublishedDecoding
from benchmarks.shapes import LLAMA, Lengths, cached_numbers, parameters, random_llama
from benchmarks.step_setup import random_weights
from benchmarks.step_ways import AUTHORS_2, AUTHORS_8, OURS, ways_of
from benchmarks.step_work import step_work
from benchmarks.train_step import StepComparison
from mmscale.cli.main import main
from mmscale.decoding.ensemble import Ensemble
from mmscale.decoding.generate import PromptDecoder
from tests.decoding.tape import Tape


def without(*programs: str) -> str:
    """A PATH on which these are not."""
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(f for f in folders if not any((Path(f) / program).exists() for program in programs))


@pytest.fixture
def one_thread():
    """Two wait for each other where somebody else has a core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_what_there_is_is_listed_and_a_wrong_name_gets_the_nearest(capsys):
    assert main(["bench"]) == 0
    said = capsys.readouterr().out
    assert "train-step" in said and "kernels" in said
    assert not any(helper in said for helper in ("recording", "shapes", "proxy-ways"))
    assert main(["bench", "trainstep"]) == 2
    assert "did you mean 'train-step'?" in capsys.readouterr().err


def test_the_way_of_a_command_through_the_files_is_listed(capfd):
    assert main(["bench", "follow", "--since", "_code_of", "--until", "entries", "list", "rules"]) == 0
    said = capfd.readouterr().out.splitlines()
    files = said[said.index("mmscale/cli/main.py") :]
    assert "mmscale/cli/list.py" in files
    assert files[-2] == "mmscale/cli/list.py", "the way ends where it was told to"


def test_a_benchmark_is_started_as_a_module_wherever_one_stands(tmp_path):
    """Also in a folder that has an mmscale of its own, as a checkout does."""
    (tmp_path / "mmscale").mkdir()
    (tmp_path / "mmscale" / "__init__.py").touch()
    program = str(Path(sys.executable).parent / "mmscale")
    done = subprocess.run([program, "bench", "chaos", "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "--kills" in done.stdout, done.stderr


@pytest.mark.slow
def test_every_kernel_compiles_for_every_gpu_and_fits(tmp_path, capfd):
    pytest.importorskip("triton", reason="Triton is made for Linux")
    assert main(["bench", "kernels", "--output", str(tmp_path), "--compile-only", "--dtypes", "bf16"]) == 0
    assert "tensor-core" in capfd.readouterr().out
    found = json.loads((tmp_path / "kernel_resources.json").read_text())
    assert {one["target"] for one in found["kernels"]} == {"sm_80", "sm_90", "sm_100", "gfx942"}
    assert len(found["kernels"]) == 4 * 26 and found["made_with"]["commit"] is not None
    assert all(one["tensor_cores"] for one in found["kernels"] if one["variant"].startswith("adapter"))


def test_ways_have_to_agree_as_far_as_what_they_work_in_allows(monkeypatch, capsys):
    """A float32 loss of work in bfloat16 is rounded as bfloat16 is; a call that no CUDA graph holds is told and no fault."""
    ways = {"ours": lambda: [torch.tensor([1.0])], "other": lambda: [torch.tensor([1.0 + 1.4e-5])]}
    assert kernels.compared("op", torch.bfloat16, ways, 1)["wrong"] == {}
    assert kernels.compared("op", torch.float32, ways, 1)["wrong"] == {"other": pytest.approx(1.4e-5, rel=0.1)}

    def refused(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    assert kernels._in_a_graph(ways["ours"])["graph_seconds"] is None or torch.cuda.is_available()
    monkeypatch.setattr(kernels, "graph_seconds", refused)
    assert kernels._in_a_graph(ways["ours"])["not_captured"] == "operation not permitted when stream is capturing"
    assert "no CUDA graph: operation not permitted" in capsys.readouterr().err


def test_a_kernel_that_spills_or_needs_too_much_is_a_fault():
    pytest.importorskip("triton", reason="Triton is made for Linux")
    from mmscale_kernels.gpu.compilation import compile_for, variants

    right = next(variants(("bf16",)))
    blocks = {"BLOCK_M": 256, "BLOCK_N": 256, "BLOCK_K": 64}
    wrong = compile_for(replace(right, constants={**right.constants, **blocks}, warps=4), "sm_80")
    assert any("spills" in fault for fault in wrong.faults)
    large = compile_for(replace(right, constants={**right.constants, **blocks}, warps=8, stages=4), "sm_80")
    assert any("bytes of shared memory, 166,912 are there" in fault for fault in large.faults)


@pytest.mark.parametrize("shape", ["tinyworld", "small"])
def test_a_step_is_compared_with_the_authors_way_part_by_part(tmp_path, capfd, monkeypatch, shape):
    """What was measured is kept where git is not. In bfloat16, where the small shape runs as a GPU does, ours is under autocast."""
    monkeypatch.setenv("PATH", without("git"))
    more = ["--batch", "6"] if shape == "tinyworld" else ["--batch", "3", "--dtype", "bfloat16"]
    arguments = [*more, "--batches", "2", "--json", "--shape", shape]
    assert main(["bench", "train-step", "--output", str(tmp_path), *arguments]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["gpu"] == "not measured" or said["device"] == "cuda"
    ways = {way["way"]: way for way in said["ways"]}
    losses = [way["loss"] for way in said["ways"]]
    assert list(ways)[:2] == [AUTHORS_2, AUTHORS_8] and all(way["failure"] is None for way in said["ways"])
    assert losses == pytest.approx([losses[0]] * len(ways), abs=1e-3 if shape == "tinyworld" else 1e-2)
    distances = {name: way["gradient_distance"] for name, way in ways.items()}
    assert distances.pop(AUTHORS_2) == 0 and all(0 < distance < 0.05 for distance in distances.values())
    peaks = {name: way["peak_bytes"] for name, way in ways.items()}
    assert peaks[OURS] < peaks["+ norms and SwiGLUs that keep less"] < peaks["+ packed rows"]
    assert ways["all that, activations computed again"]["peak_bytes"] < peaks[OURS]
    assert said["share_of_peak"] == ways[OURS]["peak_bytes"] / ways[AUTHORS_2]["peak_bytes"] and said["speedup"] > 0
    assert all(way["steps"] == 2 and way["tflops"] > 0 and way["mfu"] is None for way in said["ways"])
    file = "train_step.json" if shape == "tinyworld" else f"train_step_{shape}.json"
    kept = json.loads((tmp_path / file).read_text())
    assert kept["speedup"] == said["speedup"] and kept["made_with"]["commit"] == ""


def test_a_way_that_fails_is_a_row_and_one_that_disagrees_is_not_timed(one_thread):
    cpu = torch.device("cpu")
    setup = random_weights("small", cpu, torch.float32, 4, 2)
    for batch in setup.plain:
        batch[:] = [
            replace(one, prompt_ids=one.prompt_ids[:9], target_ids=one.target_ids[: 3 + 4 * i])
            for i, one in enumerate(batch)
        ]
    ways = {way.name: way for way in ways_of(setup, cpu, 1 << 10)}
    right = ways[AUTHORS_2]

    def too_much(examples):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 458 GiB")

    def mean_of_means(examples):
        """What the authors average: a micro-batch counts as much whatever it holds."""
        return right.loss_sum(examples) / sum(len(e.target_ids) for e in examples) * targets / 2

    targets = sum(len(e.target_ids) for e in setup.plain[0])
    seen = []

    def later_too_much(examples):
        seen.append(examples)
        return right.loss_sum(examples) if len(seen) <= 2 else too_much(examples)

    saved = []
    wrong = {
        "too much": too_much,
        "mean of means": mean_of_means,
        "later too much": later_too_much,
    }
    last = ways["+ loss and last layer on label rows"]
    tried = [right, *(replace(right, name=name, loss_sum=way) for name, way in wrong.items()), last]
    comparison = StepComparison(
        setup, cpu, tried, lambda rows: saved.append([(r.failure, len(r.seconds)) for r in rows])
    )
    comparison.agree()
    comparison.take_turns(600)
    failures = {one.way.name: one.failure for one in comparison.measured}
    assert failures["too much"] == failures["later too much"] == OUT_OF_MEMORY
    assert "than the first way" in failures["mean of means"]
    assert [len(one.seconds) for one in comparison.measured] == [2, 0, 0, 0, 2]
    assert len(saved) == 5 + 3 + 2, "after each"


def test_the_operations_of_a_step_by_hand():
    """Two layers of 4 x 128^2 + 3 x 128 x 352 and two norms, a last norm; tables of 2000 x 128."""
    cpu = torch.device("cpu")
    setup = random_weights("small", cpu, torch.float32, 2, 1)
    examples = [
        replace(example, encoder_ids=(5,) * 7, prompt_ids=(5,) * prompt, target_ids=(5,) * 4)
        for example, prompt in zip(setup.plain[0], (8, 18), strict=True)
    ]
    work = step_work(setup, examples)
    lengths = [1 + 7 + 1 + 8 + 3, 1 + 7 + 1 + 18 + 3]
    assert (work.tokens, work.targets) == (sum(lengths), 8) == (50, 8)
    body = 2 * (4 * 128**2 + 3 * 128 * 352 + 2 * 128) + 128
    attention = sum(2 * 2 * 2 * 128 * n * n / 2 for n in lengths)  # queries x keys, weights x values, half of them seen
    assert work.llm == pytest.approx(2 * (2 * body * 50 + 2 * 2000 * 128 * 8 + attention))
    assert work.connector == 14 * (4 * 64 * 128 + 6 * 128 * 128)
    layer = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert work.encoder == 14 * 2 * (2 * layer + 32 * 4 + 64), "a table of positions in the first layer, a last norm"


def test_planned_memory_stands_beside_a_real_steps(tmp_path, capfd, monkeypatch, one_thread):
    """A mapping's and a full fine-tuning's."""
    monkeypatch.setattr(recording, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["plan_check.py", "--json"])
    plan_check.main()
    said = json.loads(capfd.readouterr().out)
    assert [one["case"] for one in said["cases"]] == ["mapping", "full fine-tuning"]
    for one in said["cases"]:
        assert one["failure"] is None and one["precision"] == "bfloat16" and one["gradient_checkpointing"]
        assert one["memory_ratio"] == pytest.approx(1, abs=0.05)
        assert one["rows"] == 2 and one["planned"]["step_seconds"] is None, "of a CPU"
    assert json.loads((tmp_path / "plan_check_small.json").read_text())["cases"] == said["cases"]

    def too_much(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(plan_check, "measured_on", too_much)
    plan_check.main()
    failures = [one["failure"] for one in json.loads(capfd.readouterr().out)["cases"]]
    assert failures == [OUT_OF_MEMORY] * 2


def test_proxy_decoding_is_compared_with_the_published_way(tmp_path, capfd):
    """An expert trained for two steps, narrow models, few tokens: the answers of all three ways have to agree."""
    run = tmp_path / "run"
    stages = {"translation": "sw", "response": "en"}
    settings = [f"output_dir={run}", "methods=[question_alignment]", "evaluation.tasks={}", "proxy=null"]
    for stage, language in stages.items():
        key = f"recipes.question_alignment.{stage}"
        settings += [f"{key}.steps=2", f"{key}.data.0.limit_per_language=64", f"{key}.data.0.languages=[{language}]"]
    assert main(["run", "configs/quickstart.yaml", *settings]) == 0
    expert = run / "stages/question_alignment.response/model"
    arguments = ["--batches", "1", "4", "--languages", "en", "--problems", "4", "--new-tokens", "12", "--runs", "1"]
    widths = ["--small-width", "128", "--base-width", "192", "--expert", str(expert), "--json"]
    capfd.readouterr()
    assert main(["bench", "proxy-decode", "--output", str(tmp_path), *arguments, *widths]) == 0
    said = json.loads(capfd.readouterr().out)
    assert [row["batch"] for row in said["batches"]] == [1, 4] and said["gpu"] == "not measured" and not said["faults"]
    for row in said["batches"]:
        assert len(row["tokens_per_s"]) == 4 and all(speed > 0 for speed in row["tokens_per_s"].values())
        assert 0 < row["acceptance"] <= 1 and row["tokens_per_round"] >= 1
        assert set(row["answers"]) == {"ours, plain", "ours, speculative"}
        assert all(told["different"] == 0 and told["same"] >= 1 for told in row["answers"].values())
        assert set(row["logit_errors"]) == set(row["answers"])
        speeds = [one["times_base_alone"] for one in row["by_acceptance"]]
        assert speeds == sorted(speeds)
    assert json.loads((tmp_path / "proxy_decode.json").read_text())["batches"] == said["batches"]


def test_answers_that_part_where_rounding_decides_are_no_fault():
    noted = [{1: 1.0, 2: 0.5}, {5: 2.0 + 1e-5, 6: 2.0, 7: 1.0}]
    assert near_tie([1, 6, 9], [1, 5, 2], noted, 1.1e-5)
    assert not near_tie([1, 6, 9], [1, 5, 2], noted, 0.9e-5)
    assert not near_tie([1, 7], [1, 5], noted, 1.1e-5), "far below the chosen token"
    assert not near_tie([1, 8], [1, 5], noted, 10.0), "not among the likeliest"
    assert not near_tie([1], [1, 5], noted, 10.0), "ended early"
    found = agreement([[1, 5], [1, 6], [1, 7]], [[1, 5]] * 3, [noted] * 3, 1.1e-5)
    assert found == {"same": 1, "near_ties": 1, "different": 1}


def test_proxy_decoding_of_random_weights_is_predicted_from_costs(tmp_path, capfd):
    arguments = ["--shape", "small", "--batches", "2", "--new-tokens", "6", "--runs", "1", "--json"]
    assert main(["bench", "proxy-decode", "--output", str(tmp_path), *arguments]) == 0
    said = json.loads(capfd.readouterr().out)
    (row,) = said["batches"]
    assert set(row["tokens_per_s"]) == {"published", "base alone", "ours, plain"} and "acceptance" not in row
    speeds = [one["times_base_alone"] for one in row["by_acceptance"]]
    assert speeds == sorted(speeds) and speeds[0] > 0 and set(row["costs"]["verify_s"]) == {"1", "2", "4", "8", "16"}
    assert [one["rows"] for one in said["pair"]] == [2]
    assert json.loads((tmp_path / "proxy_decode_small.json").read_text())["batches"] == said["batches"]


@pytest.fixture
def tiny(monkeypatch):
    """Random weights whose steps are recorded by the stand-in, each way with the memory for itself, as on a GPU."""
    monkeypatch.setattr(proxy_decode, "recorder", lambda device: Tape())
    monkeypatch.setattr(proxy_costs, "ROUNDS", 1)
    monkeypatch.setattr(proxy_decode, "TEMPLATE", 0)
    monkeypatch.setattr(proxy_decode, "PROMPT", Lengths(8, 0.2, 6, 12))
    setup = proxy_decode.random_weights(("tiny", "tiny"), Namespace(batches=[1, 2], new_tokens=4))
    return replace(setup, least=2, alone=True)


def test_what_does_not_fit_is_a_row_and_every_row_is_kept_at_once(tiny, monkeypatch):
    """The published loop and the base alone lack memory at a batch of two."""
    kept, whole, plain = [], PublishedDecoding._batch, PromptDecoder.stream

    def published(self, prompts, new_tokens):
        if len(prompts[0]) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, prompts, new_tokens)

    def stream(self, prompts, config):
        if len(prompts) == 1 and config.batch_size == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, prompts, config)

    monkeypatch.setattr(PublishedDecoding, "_batch", published)
    monkeypatch.setattr(PromptDecoder, "stream", stream)
    values = proxy_ways.measure(tiny, [1, 2], 1, lambda found: kept.append(json.dumps(found)))
    one, two = values["batches"]
    names = ["published", *(name + end for end in ("", ", no graphs") for name in ("base alone", "ours, plain"))]
    assert list(one["tokens_per_s"]) == names == list(two["tokens_per_s"]) and not one["failed"]
    assert two["failed"] == dict.fromkeys(("published", "base alone", "base alone, no graphs"), "out of memory")
    assert two["tokens_per_s"]["published"] is two["times_published"]["ours, plain"] is None
    assert two["tokens_per_s"]["ours, plain"] > 0 and not two["answers"]
    assert one["recordings"]["ours, plain"] >= 3 and "ours, plain, no graphs" not in one["recordings"]
    assert {"by_acceptance", "by_acceptance, no graphs"} <= one.keys()
    assert [len(json.loads(text)["batches"]) for text in kept] == [1] * 5 + [2] * 6
    assert list(json.loads(kept[0])["batches"][0]["tokens_per_s"]) == ["published"]
    assert all(model.cache is None for model in tiny.ensemble.models), "given back"
    assert values["faults"] == []


def test_logits_of_ours_that_are_wrong_are_a_fault(tiny, monkeypatch):
    """Sampled answers may be the same all the same."""
    right = tiny.ensemble.combined
    monkeypatch.setattr(Ensemble, "combined", lambda self, logits: right(logits) * (1 + 2e-5))
    found = proxy_ways.measure(tiny, [1], 1, lambda _: None)
    assert len(found["faults"]) == 4 and all("logits off by 2.0e-05" in one for one in found["faults"])


def test_the_base_is_the_largest_whose_weights_and_caches_fit(monkeypatch):
    for name, shape in LLAMA.items():
        model = random_llama(shape, torch.device("meta"))
        assert {one.device.type for one in model.parameters()} == {"meta"}, "drawn on its device"
        assert parameters(shape)["all"] == sum(one.numel() for one in model.parameters()), name
        layer = model.model.layers[0]
        assert parameters(shape)["layer"] == sum(one.numel() for one in layer.parameters())
        assert cached_numbers(shape) == 2 * shape["num_hidden_layers"] * layer.self_attn.k_proj.out_features
    monkeypatch.setattr(proxy_decode, "DEVICE", torch.device("cuda"))

    def base(free, batch):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 150e9))
        return proxy_decode.largest_base(555, Namespace(batches=[1, batch], new_tokens=32))

    assert base(148e9, 32) == "34b" and base(148e9, 128) == "7b" and base(100e9, 1) == "13b" and base(84e9, 32) == "7b"


def test_a_shared_beginning_is_measured_beside_whole_prompts(tmp_path, capfd):
    arguments = [
        "--shapes",
        "tiny",
        "--prompts",
        "3",
        "--shared-tokens",
        "80",
        "--new-tokens",
        "3",
        "--runs",
        "1",
        "--json",
    ]
    assert main(["bench", "prefix", "--output", str(tmp_path), *arguments]) == 0
    measured = json.loads(capfd.readouterr().out)["shapes"]["tiny"]
    assert all(measured[name]["times"] > 0 for name in ("first token", "answers", "options"))
    assert all(measured[name]["same"] == measured[name]["of"] == 3 for name in ("first token", "answers"))
    assert max(measured[name]["largest_difference"] for name in ("answers", "options")) < 1e-4, "of float32"
    assert json.loads((tmp_path / "prefix.json").read_text())["shapes"]["tiny"] == measured
