"""Replayed steps are the steps: same tokens, whatever enters, leaves, is drafted or grows beyond a recording's length."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from unittest.mock import Mock

import pytest
import torch

from mmscale.config.evaluation import GenerationConfig
from mmscale.decoding import graphs
from mmscale.decoding.ensemble import Ensemble, ModelStepper
from mmscale.decoding.generate import PromptDecoder
from mmscale.decoding.speculation import DraftLengthController
from mmscale.errors import UserError
from tests.conftest import random_merged
from tests.decoding.tape import Tape
from tests.decoding.test_generate import END, SAMPLED, perturbed, prompts

GREEDY = GenerationConfig(max_new_tokens=24, batch_size=3)


@pytest.fixture(autouse=True)
def short_recordings(monkeypatch):
    """So that a sequence outgrows several, and few steps do."""
    monkeypatch.setattr(graphs, "HELD_STEP", 8)
    monkeypatch.setattr(graphs, "RECORD_AT", 2)


def answers(ensemble, versions, config, draft_length=None):
    found = PromptDecoder(ensemble, END, 256, draft_length).stream(versions, config)
    return [one.token_ids for one in sorted(found, key=lambda one: one.prompt)]


def both(models, tapes, **more):
    """The same models unrecorded and recorded."""
    for recorders in ([None] * len(models), tapes):
        base, *small = (ModelStepper(m, recorder=r) for m, r in zip(models, recorders, strict=True))
        yield Ensemble(base, tuple(small) or None, **more)


@pytest.mark.parametrize(("family", "batch_size"), [("llama", 1), ("llama", 3), ("mistral", 5), ("qwen2", 3)])
@pytest.mark.parametrize("encoder", [None, "t5"])
@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_replayed_steps_are_the_steps(family, encoder, config, batch_size):
    """Three of five sequences run as four, with a free slot; three of three and five of five without."""
    asked, tape = prompts(encoder is not None, 9), Tape()
    config = config.model_copy(update={"batch_size": batch_size})
    plain, recorded = both([random_merged(family, encoder)], [tape])
    expected = answers(plain, [asked], config)
    assert answers(recorded, [asked], config) == expected
    assert tape.recordings >= 2 and tape.replays > tape.recordings
    assert answers(recorded, [asked], config) == expected, "a second time, with the cache of the first"


@pytest.mark.parametrize("tokens", [1, 3, None])
def test_replayed_speculation_is_speculation(tokens):
    asked, tapes = prompts(False, 8), [Tape() for _ in range(3)]
    plain, recorded = both([perturbed(s) for s in (1, 2, 3)], tapes)
    cpu = torch.device("cpu")
    found, expected = (answers(e, [asked] * 3, SAMPLED, DraftLengthController(cpu, tokens)) for e in (recorded, plain))
    assert found == expected
    assert tokens is None or all(tape.replays > tape.recordings > 0 for tape in tapes)


def test_larger_caches_are_recorded_anew():
    asked, tape = prompts(False, 6), Tape()
    plain, recorded = both([random_merged("llama")], [tape])
    answers(recorded, [asked], GREEDY)
    longer = GREEDY.model_copy(update={"max_new_tokens": 60, "batch_size": 2})
    assert answers(recorded, [asked], longer) == answers(plain, [asked], longer)


def reads_back(*_) -> None:
    float(torch.ones(()))


def test_a_model_that_cannot_be_recorded_runs_all_the_same_and_says_so(capsys):
    model, tape = random_merged("llama"), Tape()
    plain, recorded = both([model], [tape])
    expected = answers(plain, [prompts(False)], GREEDY)
    trunk = model.language_model.causal_lm.get_decoder()
    trunk.register_forward_pre_hook(reads_back)
    assert answers(recorded, [prompts(False)], GREEDY) == expected
    said = capsys.readouterr().err
    assert said.count("decoding steps run unrecorded: a number was read back") == 1 and tape.recordings == 1


class Pools:
    """torch.cuda as far as a recording needs it. It refuses a pool whose graphs are all gone, as torch's allocator does, and
    leaves its stream only after a capture that ended well, as torch.cuda.graph does."""

    def __init__(self, monkeypatch):
        self.users, self.names, self.now, self.streams, self.mode = Counter(), itertools.count(1), Mock(), 0, 0
        self.generator = Mock()
        pools = self

        class Graph:
            name = 0

            def pool(self):
                return self.name

            def replay(self):
                pass

            def __del__(self):
                pools.users[self.name] -= 1

        @contextlib.contextmanager
        def capture(graph, pool, stream, capture_error_mode):
            assert stream is not pools.now and (pool is None or pools.users[pool] > 0)
            before, pools.now = pools.now, stream
            graph.name = pool or next(pools.names)
            pools.users[graph.name] += 1
            yield
            pools.now = before

        replaced = {
            "current_stream": lambda: self.now,
            "Stream": self.stream,
            "stream": lambda stream: contextlib.nullcontext(),
            "set_stream": lambda stream: setattr(self, "now", stream),
            "CUDAGraph": Graph,
            "graph": capture,
            "current_device": lambda: 0,
            "default_generators": (self.generator,),
            "get_sync_debug_mode": lambda: self.mode,
            "set_sync_debug_mode": lambda mode: setattr(self, "mode", mode),
        }
        for name, one in replaced.items():
            monkeypatch.setattr(torch.cuda, name, one)

    def stream(self):
        self.streams += 1
        return Mock()


def test_recordings_share_the_memory_of_those_that_live(monkeypatch):
    cuda, recorder = Pools(monkeypatch), graphs.CudaGraphs()
    modes = []
    replays = [recorder.record(lambda: modes.append(cuda.mode)) for _ in range(2)]
    assert +cuda.users == {1: 2} and cuda.streams == 1
    assert modes == ["error", 0] * 2 and cuda.mode == 0, "what waits is refused before a capture, not in it"
    replays.clear()  # as the recordings of a cache that is replaced by a larger one
    replays.append(recorder.record(lambda: None))
    assert +cuda.users == {2: 1}


def test_a_recording_that_is_broken_off_leaves_stream_and_generator_as_they_were(monkeypatch):
    cuda = Pools(monkeypatch)
    before, steps = cuda.now, iter([None])
    with pytest.raises(StopIteration):
        graphs.CudaGraphs().record(lambda: next(steps))
    assert cuda.now is before
    cuda.generator.graphsafe_set_state.assert_called_once_with(cuda.generator.clone_state())


def test_steps_that_are_recorded_are_not_measured():
    disturbed = iter([0, 0, 0, 1])
    draft_length = DraftLengthController(torch.device("cpu"), disturbances=lambda: next(disturbed))
    for _ in range(2):
        with draft_length.timed_verification(4):
            pass
    draft_length.note(0, 0, 1, 1)
    assert draft_length.verifying[4].seen == 1


def test_nothing_is_recorded_on_a_cpu_nor_where_it_is_switched_off(monkeypatch):
    gpu = torch.device("cuda")
    assert graphs.recorder(torch.device("cpu")) is None
    assert isinstance(graphs.recorder(gpu), graphs.CudaGraphs)
    monkeypatch.setenv("MMSCALE_CUDA_GRAPHS", "off")
    assert graphs.recorder(gpu) is None
    monkeypatch.setenv("MMSCALE_CUDA_GRAPHS", "on")
    with pytest.raises(UserError, match="MMSCALE_CUDA_GRAPHS=on is unknown: set auto or off"):
        graphs.recorder(gpu)
