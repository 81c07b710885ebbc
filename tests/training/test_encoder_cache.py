"""Cached encoder states equal computed ones; parts are made once; a cache of something else is refused by name."""

from __future__ import annotations

import json
import random

import pytest
import torch

from mmscale.cli.main import main
from mmscale.config.parallel import InterruptionConfig
from mmscale.data.packing import pack
from mmscale.data.segments import SpecialTokens, TokenizedExample
from mmscale.data.token_store import TokenStore
from mmscale.errors import UserError
from mmscale.models.assembly import assemble
from mmscale.models.encoders import Encoder
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.interruption import Interruption
from mmscale.runs import training as stages
from mmscale.storage.files import digest
from mmscale.storage.parts import PartFolder
from mmscale.training import encoder_cache
from mmscale.training.encoder_cache import CacheFolder, with_states
from mmscale.training.metrics import read_metrics
from mmscale.training.objective import CausalObjective
from tests.conftest import VOCABULARY, random_merged
from tests.distributed import ranks
from tests.flips import flips
from tests.runs.test_run import command
from tests.tokens import stored

HERE = ParallelContext(device=torch.device("cpu"))
SPECIALS = SpecialTokens(1, 2)


def make_store(folder, count: int = 23, seed: int = 0) -> TokenStore:
    """Examples of 0 to 12 encoder tokens."""
    generator = random.Random(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(generator.randrange(4, VOCABULARY) for _ in range(generator.randint(low, high)))

    made = [
        TokenizedExample(
            prompt_ids=ids(1, 5), target_ids=ids(2, 6), encoder_ids=ids(1, 12), language="sw", origin=f"row:{i}"
        )
        for i in range(count)
    ]
    return stored(folder, made)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(encoder_cache, "PART_EXAMPLES", 5)
    monkeypatch.setattr(encoder_cache, "BATCH_TOKENS", 20)


def states(encoder: Encoder, store: TokenStore, folder, renewable: bool = True) -> TokenStore:
    interruption = Interruption(InterruptionConfig(), HERE)
    return with_states(encoder, {"train": store}, CacheFolder(folder, renewable, "test"), HERE, interruption)["train"]


@pytest.mark.parametrize(
    ("family", "joined_by"),
    [("t5", "mlp"), ("m2m100", "mlp"), ("xlm_roberta", "mlp"), ("decoder", "mlp"), ("t5", "layalign")],
)
def test_a_row_with_cached_states_has_the_loss_of_one_without(tmp_path, small_parts, family, joined_by):
    model, store = random_merged("llama", family, joined_by=joined_by), make_store(tmp_path / "tokens")
    held = states(model.encoder, store, tmp_path / "states")
    assert len(held) == len(store) and list(held) == list(store)
    for chosen in ([0, 22, 7], [4, 5], list(range(23))):
        plain, known = (pack([examples[i] for i in chosen], SPECIALS) for examples in (store, held))
        assert known.encoder.states is not None and plain.encoder.states is None
        objective = CausalObjective(model)
        assert objective.loss_sum(known).item() == pytest.approx(objective.loss_sum(plain).item(), rel=1e-12)
    alone = model.encoder.states(pack([store[9]], SPECIALS).encoder)
    assert torch.allclose(held[-14].encoder_states, alone, rtol=0, atol=1e-12)


def test_finished_parts_are_kept_and_a_second_pass_computes_nothing(tmp_path, small_parts, monkeypatch):
    encoder, store = random_merged("llama", "t5").encoder, make_store(tmp_path / "tokens")
    compute, written = encoder_cache._computed, []

    def until_the_third(encoder, store, part, *more):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(part.number)
        return compute(encoder, store, part, *more)

    monkeypatch.setattr(encoder_cache, "_computed", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        states(encoder, store, tmp_path / "states")
    written.clear()
    assert len(states(encoder, store, tmp_path / "states")) == 23
    assert written == [3, 4], "three of five parts were there"
    monkeypatch.setattr(Encoder, "states", lambda *_: pytest.fail("the encoder ran again"))
    assert states(encoder, store, tmp_path / "states")[3].encoder_states is not None


def test_states_of_all_layers_are_sized_first_and_are_never_taken_for_the_last_ones(tmp_path, small_parts, capsys):
    encoder, store = random_merged("llama", "t5").encoder, make_store(tmp_path / "tokens")
    states(encoder, store, tmp_path / "states")
    encoder.all_layers = True
    with pytest.raises(UserError, match="holds encoder states of other layers of the encoder"):
        states(encoder, store, tmp_path / "states", renewable=False)
    capsys.readouterr()
    tokens = sum(len(one.encoder_ids) for one in store)
    held = states(encoder, store, tmp_path / "states")
    said = f"{tokens:,} tokens x 3 x 24 x 8 bytes = {tokens * 3 * 24 * 8 / 1e6:,.1f} MB"
    assert said in capsys.readouterr().err
    assert held[3].encoder_states.shape == (len(store[3].encoder_ids), 3, 24)
    assert len(list((tmp_path / "states").glob("*.safetensors"))) == 23, "parts of a third of the examples"


def test_a_damaged_part_is_seen_and_made_again(tmp_path, small_parts, capsys):
    encoder, store = random_merged("llama", "t5").encoder, make_store(tmp_path / "tokens")
    whole = [example.encoder_states.clone() for example in states(encoder, store, tmp_path / "states")]
    part = tmp_path / "states" / "train-00002.safetensors"
    key = digest(encoder_cache._belongs_to(encoder, {"train": store}))
    third = encoder_cache.state_parts(store, encoder.shape)[2:3]
    folder = PartFolder(part.parent, key)
    assert not folder.damaged(third) and PartFolder(part.parent, "x").damaged(third) == third
    for where in flips(part, 60):
        assert folder.damaged(third) == third, where
    (part.parent / "train-00003.safetensors").write_bytes(part.read_bytes()[:-3])
    part.write_bytes((part.parent / "train-00001.safetensors").read_bytes())
    found = states(encoder, store, tmp_path / "states")
    said = capsys.readouterr().err
    assert all(f"train-0000{number}.safetensors is damaged: it is made again" in said for number in (2, 3))
    assert all(torch.equal(example.encoder_states, value) for example, value in zip(found, whole, strict=True))


@pytest.mark.parametrize("changed", ["encoder", "data"])
def test_states_of_something_else_are_refused_by_name_or_made_again(tmp_path, small_parts, changed):
    encoder, store = random_merged("llama", "t5").encoder, make_store(tmp_path / "tokens")
    states(encoder, store, tmp_path / "states")
    if changed == "encoder":
        with torch.no_grad():
            next(encoder.parameters())[0, 0] += 1
    else:
        store = make_store(tmp_path / "other", seed=1)
    what = "another encoder" if changed == "encoder" else "other data or another tokenizer"
    with pytest.raises(UserError, match=f"{tmp_path}/states holds encoder states of {what}"):
        states(encoder, store, tmp_path / "states", renewable=False)
    held = states(encoder, store, tmp_path / "states")
    right = encoder.states(pack([store[6]], SPECIALS).encoder)
    assert torch.allclose(held[6].encoder_states, right, rtol=0, atol=1e-12)


def stage(folder, *more: str) -> list[str]:
    """An augmentation of eight steps over 26 problems: five passes."""
    recipe = "recipes.mindmerger.augmentation"
    settings = [f"{recipe}.steps=8", f"{recipe}.data.0.limit_per_language=26", f"{recipe}.packing.global_batch_size=16"]
    settings.append("recipes.mindmerger.mapping.packing.global_batch_size=8")  # two steps: not even one pass
    arguments = command(folder)[2:]
    return ["train", "configs/quickstart.yaml", "mindmerger.augmentation", *arguments, *settings, "threads=1", *more]


def losses(folder) -> list[float]:
    rows = read_metrics(folder / "stages" / "mindmerger.augmentation" / "metrics.jsonl")
    return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture
def with_encoder(monkeypatch) -> list[bool]:
    """Whether each model that a stage trains has its encoder in memory."""
    seen: list[bool] = []

    def watched(*arguments):
        model, tokenizer = assemble(*arguments)
        seen.append(model.encoder is not None)
        return model, tokenizer

    monkeypatch.setattr(stages, "assemble", watched)
    return seen


def test_training_with_a_cache_is_training_without_and_another_run_uses_it(tmp_path, capsys, with_encoder):
    """By one process and by two: the same files, byte for byte."""
    assert main(stage(tmp_path / "off", "encoder_cache=off")) == 0
    assert "encoder states of" not in capsys.readouterr().err
    assert main(stage(tmp_path / "auto")) == 0
    assert with_encoder == [True, True, True, False], "mapping, augmentation; the last one's states are all on disk"
    said = capsys.readouterr().err
    assert "augmentation: encoder states of 26 examples" in said and "mapping: encoder states" not in said
    assert not (tmp_path / "auto" / "stages" / "mindmerger.augmentation" / "encoder_states").exists()
    assert losses(tmp_path / "auto") == pytest.approx(losses(tmp_path / "off"), rel=1e-5)
    kept = tmp_path / "kept"
    ranks.run(2, ["-m", "mmscale", *stage(tmp_path / "two", f"encoder_cache={kept}")])
    file = kept / "mindmerger.augmentation" / "train-00000.safetensors"
    made = file.read_bytes()
    assert main(stage(tmp_path / "three", f"encoder_cache={kept}")) == 0
    assert "encoder states of" not in capsys.readouterr().err
    assert losses(tmp_path / "three") == losses(tmp_path / "auto") and file.read_bytes() == made
    assert json.loads((file.parent / "index.json").read_text())["complete"] is True
    other = f"recipes.mindmerger.augmentation.data.0.options={json.dumps({'form': 'problem', 'seed': 99})}"
    assert main(stage(tmp_path / "four", f"encoder_cache={kept}", other)) == 2
    assert f"{file.parent} holds encoder states of other data" in capsys.readouterr().err


def test_too_little_room_is_said_or_refused(tmp_path, capsys, monkeypatch):
    from mmscale.runs import encoder_cache as chosen

    monkeypatch.setattr(chosen, "FREE_SHARE", 0.0)
    assert main(stage(tmp_path / "one", f"encoder_cache={tmp_path / 'kept'}")) == 2
    assert "more than half of what is free" in capsys.readouterr().err
    assert main(stage(tmp_path / "two")) == 0
    assert "do not fit the disk well; the encoder runs every step" in capsys.readouterr().err
