"""Ways of proxy-tuned decoding that take turns on the same prompts, and how many tokens per second each of them makes."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mmscale.config.evaluation import GenerationConfig
from mmscale.data.segments import TokenizedExample
from mmscale.decoding.ensemble import Ensemble, ModelStepper
from mmscale.decoding.generate import PromptDecoder
from mmscale.decoding.speculation import CANDIDATES, DraftLengthController
from mmscale.decoding.stop_criteria import StopCriteria

from .memory import release
from .proxy_agreement import Error, Reference, agreement, apart, as_exact, few, told
from .proxy_costs import costs, most_tokens, predicted
from .proxy_published import Answers, PublishedDecoding

PUBLISHED, BASE, PLAIN, SPECULATIVE = "published", "base alone", "ours, plain", "ours, speculative"
UNRECORDED = ", no graphs"
"""Stands behind the name of a way whose steps are not recorded as CUDA graphs, where others are."""
NO_MEMORY = "out of memory"
ACCEPTANCES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
TRIED = (1, 2, 4, 8, 16)
"""Tokens of a round whose costs are measured; every other one where nothing is recorded."""
WARM_PROMPT = 32
WARM_TOKENS = 8
"""Tokens of an answer before anything is measured: enough for a step to be recorded."""


@dataclass
class ProxySetup:
    """Models and prompts that every way gets."""

    ensemble: Ensemble
    models: Sequence[Any]
    """The same in transformers."""
    prompts: list[list[TokenizedExample]]
    """As each model reads them."""
    end: StopCriteria
    context_length: int
    new_tokens: int
    trained: bool
    """Whether the drafts of these models mean anything; random weights only tell what they cost."""
    least: int = 4
    """Prompts at small batches."""
    alone: bool = False
    """Whether each way has the memory for itself, as on a GPU, and gives it back; else they take turns."""

    @property
    def device(self) -> torch.device:
        return self.ensemble.device

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = next(self.ensemble.base.model.language_model.parameters()).dtype
        return found


@dataclass
class DecodingWay:
    name: str
    run: Callable[[Sequence[list[TokenizedExample]], int, int], Answers]
    """(each model's prompts, batch size, new tokens) -> new tokens of every prompt, in order."""
    ensemble: Ensemble | None = None
    """None for the published one."""
    at_once: bool = False
    """Whether it reads several tokens in one pass."""


def ours(
    setup: ProxySetup,
    name: str,
    ensemble: Ensemble,
    draft_length: Callable[[], DraftLengthController],
    at_once: bool = False,
) -> DecodingWay:
    """Our engine over some of the models."""

    def run(prompts: Sequence[list[TokenizedExample]], batch: int, new_tokens: int) -> Answers:
        config = GenerationConfig(max_new_tokens=new_tokens, batch_size=batch)
        used = prompts[: len(ensemble.models)]
        decoder = PromptDecoder(ensemble, setup.end, setup.context_length, draft_length())
        return [one.token_ids for one in sorted(decoder.stream(used, config), key=lambda one: one.prompt)]

    return DecodingWay(name, run, ensemble, at_once)


def unrecorded(ensemble: Ensemble) -> Ensemble:
    """The same models, whose steps are not recorded."""
    base, *small = (ModelStepper(one.model, one.prefill_tokens, one.vocabulary) for one in ensemble.models)
    return Ensemble(base, (small[0], small[1]), ensemble.alpha)


@dataclass
class MeasuredBatch:
    """What is known of the ways at one batch size."""

    batch: int
    took: dict[str, list[float]] = field(default_factory=dict)
    """Way -> tokens per second of each run."""
    answers: dict[str, Answers] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Way, or what was measured of it -> why not."""
    recordings: dict[str, int] = field(default_factory=dict)
    errors: dict[str, Error] = field(default_factory=dict)
    alike: dict[str, dict[str, int]] = field(default_factory=dict)
    costs: dict[str, DraftLengthController] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)
    """Way -> seconds of a step of one token of each sequence."""
    drafts: dict[str, float | None] = field(default_factory=dict)

    def attempt(self, name: str, work: Callable[[], None]) -> bool:
        """False, and noted, where memory is short; it is free again then."""
        try:
            work()
            return True
        except torch.OutOfMemoryError:
            self.failed[name] = NO_MEMORY
        release()  # behind the except: its traceback holds what the work held
        return False

    def report(self) -> dict[str, Any]:
        speeds = {name: statistics.median(took) if took else None for name, took in self.took.items()}
        return {
            "batch": self.batch,
            "tokens_per_s": speeds,
            "times_published": _ratios(speeds, PUBLISHED),
            "times_base_alone": _ratios(speeds, BASE),
            "failed": self.failed,
            "recordings": self.recordings,
            "step_s": self.steps,
            "logit_errors": {name: one.report() for name, one in self.errors.items()},
            "answers": self.alike,
            **self.drafts,
            **self._predictions(),
        }

    def _predictions(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for ending in ("", UNRECORDED):
            draft_length, base = self.costs.get(SPECULATIVE + ending), self.steps.get(BASE + ending)
            if draft_length is None or base is None or not draft_length.verifying:
                continue
            verifying = {str(k): mean.value for k, mean in sorted(draft_length.verifying.items())}
            found[f"costs{ending}"] = {"draft_s": draft_length.drafting.value, "verify_s": verifying}
            found[f"by_acceptance{ending}"] = predicted(draft_length, base, ACCEPTANCES)
        return found


def _ratios(speeds: dict[str, float | None], other: str) -> dict[str, float | None]:
    beside = speeds.get(other)
    return {name: speed / beside if speed and beside else None for name, speed in speeds.items()}


class ProxyComparison:
    """All ways, and what tells whether they agree."""

    def __init__(self, setup: ProxySetup) -> None:
        self.setup, self._newest = setup, DraftLengthController(setup.device)
        specials = setup.ensemble.base.model.language_model.specials
        self.published = PublishedDecoding(setup.models, setup.ensemble.alpha, setup.end, specials.bos)
        self.reference = Reference(self.published, setup.prompts, setup.ensemble.vocabulary)
        self.ways = self._ways()
        release()

    def _ways(self) -> list[DecodingWay]:
        setup, ways = self.setup, [DecodingWay(PUBLISHED, self.published)]

        def measuring() -> DraftLengthController:
            self._newest = DraftLengthController(setup.device)
            return self._newest

        def plain() -> DraftLengthController:
            return DraftLengthController(setup.device, 1)

        kinds = [(setup.ensemble, "")]
        if any(model.records for model in setup.ensemble.models):
            kinds.append((unrecorded(setup.ensemble), UNRECORDED))
        for ensemble, ending in kinds:
            ways.append(ours(setup, BASE + ending, Ensemble(ensemble.base), plain))
            ways.append(ours(setup, PLAIN + ending, ensemble, plain))
            if setup.trained:
                ways.append(ours(setup, SPECULATIVE + ending, ensemble, measuring, at_once=True))
        return ways

    def run(self, measured: MeasuredBatch, runs: int, put: Callable[[], None]) -> None:
        """Runs of all ways, the first one of each to warm up; `put` is called when a way is done."""
        numbered = [(number, way) for number in range(runs + 1) for way in self.ways]
        if self.setup.alone:
            numbered.sort(key=lambda one: self.ways.index(one[1]))
        for number, way in numbered:
            measured.took.setdefault(way.name, [])
            if way.name not in measured.failed:
                measured.attempt(way.name, functools.partial(self._once, way, measured, number == 0))
            if number == runs:
                self._finish(way, measured)
                put()

    def _once(self, way: DecodingWay, measured: MeasuredBatch, warm: bool) -> None:
        prompts, tokens = few(self.setup.prompts, max(measured.batch, self.setup.least)), self.setup.new_tokens
        if warm and not self.setup.trained:
            prompts, tokens = self._to_warm_up(way, prompts, measured.batch)
        begin = time.perf_counter()
        found = way.run(prompts, measured.batch, tokens)
        if not warm:  # tokens were read: nothing is queued any more
            measured.took[way.name].append(sum(map(len, found)) / (time.perf_counter() - begin))
            measured.answers[way.name] = found

    def _to_warm_up(
        self, way: DecodingWay, prompts: list[list[TokenizedExample]], batch: int
    ) -> tuple[list[list[TokenizedExample]], int]:
        """Prompts and new tokens that make a way ready: where nothing is recorded, a beginning of each prompt is enough."""
        if way.ensemble is None or not any(model.records for model in way.ensemble.models):
            cut = [[replace(one, prompt_ids=one.prompt_ids[:WARM_PROMPT]) for one in own] for own in prompts]
            return cut, 2
        # room for all that follows: what was recorded in less would be recorded again
        longest = max(one.merged_length for own in prompts for one in own)
        more = max(self.setup.new_tokens, most_tokens(TRIED)) + CANDIDATES[-1]
        way.ensemble.reserve(min(batch, len(prompts[0])), longest + more)
        return prompts, min(WARM_TOKENS, self.setup.new_tokens)

    def _finish(self, way: DecodingWay, measured: MeasuredBatch) -> None:
        """What else is measured of a way that ran, before its memory goes to the next one."""
        if way.ensemble is not None and way.name not in measured.failed:
            if any(model.records for model in way.ensemble.models):
                measured.recordings[way.name] = way.ensemble.recorded
            if way.ensemble.steering:
                self._compare(way, way.ensemble, measured)
            if way.name.startswith(SPECULATIVE):
                measured.costs[way.name] = self._newest
                measured.drafts = measured.drafts or self._newest.report_json()
            else:
                self._cost(way, way.ensemble, measured)
        if self.setup.alone:
            if way.ensemble is not None:
                way.ensemble.release()
            release()

    def _compare(self, way: DecodingWay, ensemble: Ensemble, measured: MeasuredBatch) -> None:
        """A way's logits with those in float64, and its answers with the published ones."""

        def logits() -> None:
            measured.errors[way.name] = self.reference.of(ensemble, measured.batch, way.at_once)

        if measured.attempt(f"{way.name}: logits", logits) and {way.name, PUBLISHED} <= measured.answers.keys():
            allowed = apart(measured.errors[way.name], self.reference.published)
            answers = measured.answers[way.name], measured.answers[PUBLISHED]
            measured.alike[way.name] = agreement(*answers, self.published.noted, allowed)

    def _cost(self, way: DecodingWay, ensemble: Ensemble, measured: MeasuredBatch) -> None:
        """A step's seconds; where weights are random also those of drafts and of passes over several tokens, and whether the
        logits of such a pass are right."""
        prompts = [own[: measured.batch] for own in few(self.setup.prompts, measured.batch)]
        drafts = ensemble.steering is not None and not self.setup.trained
        name = way.name.replace(PLAIN, SPECULATIVE) if drafts else f"{way.name}: step"

        def rounds() -> None:
            some = TRIED if any(model.records for model in ensemble.models) or not self.setup.alone else TRIED[::2]
            found = costs(ensemble, prompts, some if drafts else (1,))
            measured.steps[way.name] = found.verifying[1].value
            if drafts:
                measured.costs[name] = found

        if measured.attempt(name, rounds) and drafts:
            self._compare(DecodingWay(name, way.run, ensemble, at_once=True), ensemble, measured)


def measure(
    setup: ProxySetup, batches: Sequence[int], runs: int, keep: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """Every way at every batch size; what is known so far is kept whenever there is more of it."""
    comparison = ProxyComparison(setup)
    sizes = [sum(p.numel() for p in m.model.parameters()) for m in setup.ensemble.models]
    rows: list[dict[str, Any]] = []
    values: dict[str, Any] = {
        "device": setup.device.type,
        "gpu": torch.cuda.get_device_name() if setup.device.type == "cuda" else "not measured",
        "dtype": str(setup.dtype).removeprefix("torch."),
        "parameters": sizes,
        "ratio": sizes[0] / sizes[1],
        "published_logit_errors": told(comparison.reference),
        "batches": rows,
    }
    for batch in batches:
        measured, done = MeasuredBatch(batch), len(rows)

        def put(measured: MeasuredBatch = measured, done: int = done) -> None:
            rows[done:] = [measured.report()]
            keep(values)

        comparison.run(measured, runs, put)
    values["faults"] = faults(rows, comparison.reference.published, as_exact(setup.dtype))
    keep(values)
    return values


def faults(rows: Sequence[dict[str, Any]], published: Error, times: float) -> list[str]:
    """A sentence of every way that is not the published one but for rounding."""
    found = []
    for row in rows:
        for name, alike in row["answers"].items():
            if alike["different"]:
                found.append(
                    f"{name}, batch {row['batch']}: {alike['different']} other answers, and no near-tie explains them"
                )
        for name, own in row["logit_errors"].items():
            if not own["relative"] <= times * published.relative:
                found.append(
                    f"{name}, batch {row['batch']}: logits off by {own['relative']:.1e}, not {published.relative:.1e}"
                )
    return found
