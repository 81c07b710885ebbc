"""A whole run: base evaluation, every method's stages, evaluation of each, proxy-tuning; continues where it stands."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mmscale import registry
from mmscale.answering.base import Answerer
from mmscale.answering.local import LOCAL, LocalAnswerer, Steering, proxy_answerer
from mmscale.config.evaluation import ProxyConfig, TaskConfig
from mmscale.config.run import RunConfig, dump_run
from mmscale.data.loading import wanted_languages
from mmscale.data.prompts import reads_translation, untranslated
from mmscale.errors import UserError, unknown_name
from mmscale.evaluation.predictions import Prediction, score
from mmscale.evaluation.scores import task_scores
from mmscale.evaluation.solving import evaluate_task, require_ready
from mmscale.execution.room import set_up
from mmscale.methods import Method, recipe
from mmscale.models.assembly import ModelParts
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.interruption import Interruption
from mmscale.progress import say
from mmscale.runs import proxy_models
from mmscale.runs.environment import describe_environment, set_up_torch
from mmscale.runs.stage import Stage
from mmscale.runs.training import run_stage
from mmscale.storage.files import atomic_write, write_json
from mmscale.translation.questions import require_languages

BASE, RUN_FILE = "base", "run.yaml"

LanguageRows = dict[str, list[Prediction]]
TaskRows = dict[str, LanguageRows]
"""task -> language -> judged rows"""


def check(run: RunConfig) -> list[Method]:
    """The methods of a run; UserError where a model does not fit what is asked of it.

    Names, and that every stage is configured, were checked when the configuration was read.
    """
    methods = [recipe(run, name) for name in run.methods]
    for chosen in methods:
        for spec in chosen.stages:
            Stage(run, chosen, spec).require_trainable()
        if chosen.needs_encoder and run.encoder is None:
            raise UserError(f"{chosen.name} needs an encoder: add an encoder section with a path")
    for name, prompt in _reading_translations(run, methods):
        if not run.evaluation.tasks[name].data.has_translations:
            raise untranslated(f"evaluation.tasks.{name}", prompt)
    if run.proxy is not None and run.evaluation.answerer != LOCAL:
        raise UserError(
            f"proxy-tuning adds logits, which evaluation.answerer={run.evaluation.answerer} does not give: set it to {LOCAL}, "
            f"or leave the proxy section out"
        )
    if run.proxy is not None and run.proxy.ceiling and run.proxy.expert in run.methods:
        chosen, tuned = recipe(run, run.proxy.expert), proxy_models.ceiling_run(run)
        for spec in chosen.stages:
            Stage(tuned, chosen, spec).require_trainable()
    return methods


def _reading_translations(run: RunConfig, methods: Sequence[Method]) -> list[tuple[str, str]]:
    """(task, prompt) of every task whose questions a prompt shows in translation."""
    own = [prompt for chosen in methods if (prompt := asked_by(run, chosen)) is not None]
    asked = {name: [task.prompt] if task.prompt is not None else own for name, task in run.evaluation.tasks.items()}
    return [(name, prompt) for name, prompts in asked.items() for prompt in prompts if reads_translation(prompt)]


def asked_prompts(run: RunConfig) -> set[str]:
    """The templates by which a run's models are asked, where a task has none of its own."""
    return {prompt for chosen in check(run) if (prompt := asked_by(run, chosen)) is not None}


def asked_by(run: RunConfig, chosen: Method) -> str | None:
    """The template by which a method's result is asked, where a task has none of its own."""
    if chosen.prompt is not None or not chosen.stages:
        return chosen.prompt
    last = chosen.stages[-1]
    return run.recipes[chosen.name][last.name].prompt or last.prompt


def stages_of(run: RunConfig) -> list[Stage]:
    """Every stage that a run trains, in order."""
    return [Stage(run, chosen, spec) for chosen in check(run) for spec in chosen.stages]


def prepared_stages(run: RunConfig) -> list[Stage]:
    """Every stage whose data a run reads: its own, and those that tune the larger base of proxy-tuning."""
    stages = stages_of(run)
    if run.proxy is not None and run.proxy.ceiling and run.proxy.expert in run.methods:
        chosen, tuned = recipe(run, run.proxy.expert), proxy_models.ceiling_run(run)
        stages += [Stage(tuned, chosen, spec) for spec in chosen.stages]
    return stages


def stages_up_to(run: RunConfig, target: str) -> list[Stage]:
    """The stages of one method up to METHOD.STAGE; UserError naming the nearest when no recipe has it."""
    check(run)
    known = {
        f"{name}.{spec.name}": (recipe(run, name), spec) for name in run.recipes for spec in recipe(run, name).stages
    }
    if target not in known:
        raise unknown_name("stage", target, known)
    chosen, last = known[target]
    wanted = [Stage(run, chosen, spec) for spec in chosen.stages[: chosen.stages.index(last) + 1]]
    for stage in wanted:
        stage.require_trainable()
    return wanted


def train_method(run: RunConfig, chosen: Method, context: ParallelContext) -> ModelParts:
    """Every stage of a method in order; the parts of its model."""
    parts = ModelParts(language_model=run.language_model)
    for spec in chosen.stages:
        parts = run_stage(Stage(run, chosen, spec), parts, context)
    return parts


class Run:
    """One run directory being filled."""

    def __init__(self, config: RunConfig, context: ParallelContext) -> None:
        """Every rank of the layout executes it; the first one writes."""
        self.config, self.context = config, context
        self.methods = check(config)
        self.folder = config.directory
        self.rows: dict[str, TaskRows] = {}
        self.titles: dict[str, str] = {}
        self._only, self._scores, self._counting = frozenset(self.models), True, False

    @property
    def models(self) -> list[str]:
        """Names of what answers the tasks, in order."""
        proxies = proxy_models.Steered(self.config.proxy).models() if self.config.proxy and self._has_proxy else []
        base = [BASE] if self.config.evaluation.base else []
        return [*base, *(chosen.name for chosen in self.methods), *proxies]

    @property
    def _has_proxy(self) -> bool:
        return self.config.proxy is not None and self.config.proxy.expert in self.config.methods and bool(self._steered)

    @property
    def _steered(self) -> list[str]:
        """Languages that the proxy-tuned model is asked in: of the run's, those that its section names, or all."""
        named = self.config.proxy.languages if self.config.proxy is not None else ()
        return [code for code in self.config.languages if not named or code in named]

    def execute(self, models: Collection[str] = ()) -> None:
        """Everything the configuration asks for; scores.json is written anew after each model.

        With `models`, these alone answer their tasks, for jobs side by side: no scores are written. UserError names
        one that the run does not have.
        """
        for name in models:
            if name not in self.models:
                raise unknown_name("model of this run", name, self.models)
        self._only = frozenset(models or self.models)
        self._scores = not models
        self._execute()

    def count(self) -> None:
        """Scores of what the models have answered, by one process of any kind; UserError where a stage or an answer is
        missing, since it trains nothing and asks nothing.
        """
        for stage in prepared_stages(self.config):
            if not stage.finished:
                raise UserError(f"{stage.title} is not trained: run it first, or leave out --scores")
        self._counting = True
        self._execute()

    def _execute(self) -> None:
        set_up_torch(self.config)
        self._set_up_programs()
        if not self._counting:
            self._require_translators()
        if not (self._counting and (self.folder / RUN_FILE).is_file()):  # made where it was trained
            self.context.on_first(self._describe)
        stages = [stage.name for stage in stages_of(self.config)]
        say(f"run {self.config.name} in {self.folder}: {', '.join(stages) or 'evaluation only'}")
        untouched = ModelParts(language_model=self.config.language_model)
        if BASE in self._only:
            self._evaluate(BASE, "Base", self._answerer("Base", untouched, self._base_prompt()))
        for chosen in [chosen for chosen in self.methods if chosen.name in self._only]:
            parts = train_method(self.config, chosen, self.context)
            self._evaluate(chosen.name, chosen.title, self._answerer(chosen.title, parts, chosen.prompt))
        if self.config.proxy is not None and any(proxy_models.is_of_proxy(name) for name in self._only):
            self._proxy(self.config.proxy, untouched)
        if self.config.proxy is not None and not self._steered:
            named = " ".join(self.config.proxy.languages)
            say(f"proxy: none of its languages ({named}) is among this run's, so it answers nothing")

    def _set_up_programs(self) -> None:
        """UserError, before anything is trained, where a task's programs could not be run."""
        set_up(self.config.execution)
        for task in self.config.evaluation.tasks.values():
            require_ready(task.rule, self.context)

    def _require_translators(self) -> None:
        """UserError, before anything is trained, where a translator does not know a language of its task; one that no prompt
        asks for is told."""
        asked = {name for name, _ in _reading_translations(self.config, self.methods)}
        for name, task in self.config.evaluation.tasks.items():
            translation = task.data.translation
            if translation is not None and name in asked:
                languages = wanted_languages(task.data, self.config.languages)
                self.context.on_first(functools.partial(require_languages, translation, languages))
            elif translation is not None:
                say(f"task {name}: no prompt shows translations, so {translation.path} translates nothing")

    def _answerer(self, title: str, parts: ModelParts, prompt: str | None) -> Answerer:
        made: Answerer = registry.get("answerers", self.config.evaluation.answerer)(title, parts, prompt, self.context)
        return made

    def _describe(self) -> None:
        with atomic_write(self.folder / RUN_FILE) as handle:
            handle.write(dump_run(self.config))
        write_json(self.folder / "environment.json", describe_environment())

    def _base_prompt(self) -> str | None:
        """The base is asked as the first method's result is, so that only the weights differ; in a run of no method that
        trains, as the first recipe's result would be.
        """
        for chosen in [*self.methods, *(recipe(self.config, name) for name in self.config.recipes)]:
            if chosen.stages:
                return asked_by(self.config, chosen)
        return None

    def _evaluate(
        self, name: str, title: str, answerer: Answerer, only: ProxyConfig | None = None, limit: int | None = None
    ) -> None:
        tasks = self.config.evaluation.tasks
        if limit is not None:
            tasks = {name: _limited(task, limit) for name, task in tasks.items()}
        chosen = {t: tasks[t] for t in (only.tasks if only and only.tasks else tasks)}
        if not chosen or name not in self._only:
            return
        if self._counting:
            answerer = _OnlyCounted(answerer)
        languages = self._steered if only else self.config.languages
        self.rows[name], self.titles[name] = {}, title
        for task_name, task in chosen.items():
            folder = self.folder / "predictions" / name
            with Interruption(self.config.parallel.interruption, self.context) as stop:
                rows, accounts = evaluate_task(answerer, task_name, task, languages, folder, self.context, stop)
            self.rows[name][task_name] = rows
            self._write(folder / task_name / "data.json", [account.summary() for account in accounts])
        if self._scores:
            self._write(self.folder / "scores.json", self.scores())
        say(f"{title}: " + "; ".join(_line(task, rows) for task, rows in self.rows[name].items()))

    def _proxy(self, proxy: ProxyConfig, antiexpert: ModelParts) -> None:
        base, asked = ModelParts(language_model=proxy.base), proxy_models.Steered(proxy)
        chosen = recipe(self.config, proxy.expert)
        expert = train_method(self.config, chosen, self.context)
        alone = self._answerer("Larger base", base, expert.prompt)
        self._evaluate(proxy_models.BASE, alone.title, alone, proxy)

        def at(alpha: float, title: str) -> LocalAnswerer:
            steering = Steering(
                expert=expert,
                antiexpert=antiexpert,
                alpha=alpha,
                draft_tokens=proxy.draft_tokens,
                shard_small=proxy.shard_small,
            )
            return proxy_answerer(title, base, steering, self.context, expert.prompt)

        title = f"Larger base, proxy-tuned by {chosen.title.lower()}"
        self._evaluate(proxy_models.STEERED, title, at(proxy.alpha, title), proxy)
        for name, alpha in asked.alphas().items():
            title = f"Larger base, proxy-tuned at alpha {alpha:g}"
            self._evaluate(name, title, at(alpha, title), proxy, proxy.sweep_limit)
        if proxy_models.CEILING in self._only & set(asked.models()):
            title = f"Larger base, tuned by {chosen.title.lower()} itself"
            tuned = train_method(proxy_models.ceiling_run(self.config), chosen, self.context)
            self._evaluate(proxy_models.CEILING, title, self._answerer(title, tuned, None), proxy)

    def _write(self, path: Path, value: Any) -> None:
        self.context.on_first(lambda: write_json(path, value))

    def scores(self) -> dict[str, Any]:
        """model -> title, what it is compared with, and every task's scores; of proxy-tuning its alpha as well."""
        return {name: self._scores_of(name, tasks) for name, tasks in self.rows.items()}

    def _scores_of(self, name: str, tasks: TaskRows) -> dict[str, Any]:
        confidence = self.config.evaluation.confidence
        of_proxy = proxy_models.is_of_proxy(name)
        other = proxy_models.compared_with(name) if of_proxy else (None if name == BASE else BASE)
        before = self.rows.get(other or "", {})
        entry: dict[str, Any] = {
            "title": self.titles[name],
            "paper": recipe(self.config, name).paper if name in self.config.methods else "",
            "compared_with": other,
            "tasks": {
                task: task_scores(
                    rows, self.config.evaluation.tasks[task].rule, confidence, _same(before.get(task), rows)
                )
                for task, rows in tasks.items()
            },
        }
        if of_proxy and self.config.proxy is not None:
            alphas = {proxy_models.BASE: 0.0, proxy_models.STEERED: self.config.proxy.alpha}
            alphas |= proxy_models.Steered(self.config.proxy).alphas()
            entry |= {
                "alpha": alphas.get(name),
                "of_sweep": name not in (proxy_models.BASE, proxy_models.STEERED, proxy_models.CEILING),
            }
            entry["expert"] = self.config.proxy.expert
        if name == proxy_models.STEERED and proxy_models.CEILING in self.rows:
            for task, rows in tasks.items():
                others = [self.rows[model][task] for model in (proxy_models.BASE, proxy_models.CEILING)]
                entry["tasks"][task]["gap_closed"] = proxy_models.closed(others[0], rows, others[1], confidence)
        return entry


class _OnlyCounted(Answerer):
    """An answerer whose answers are all there already; UserError where one is missing."""

    def __init__(self, inner: Answerer) -> None:
        self.inner, self.title, self.fingerprint, self.prompt = inner, inner.title, inner.fingerprint, inner.prompt
        self.models = inner.models

    def asked_by(self, prompt: str) -> Answerer:
        return _OnlyCounted(self.inner.asked_by(prompt))

    def answer(self, *_: object, **__: object) -> NoReturn:
        raise UserError(f"{self.title} has not answered all of its tasks: let it answer first, or leave out --scores")


def _same(before: LanguageRows | None, rows: LanguageRows) -> LanguageRows | None:
    """The compared model's rows of the same problems; a sweep may answer fewer."""
    if before is None:
        return None
    return {code: before[code][: len(answered)] for code, answered in rows.items() if code in before}


def _limited(task: TaskConfig, limit: int) -> TaskConfig:
    """A task with fewer problems per language: the first of those that it has."""
    held = task.data.limit_per_language
    data = task.data.model_copy(update={"limit_per_language": limit if held is None else min(limit, held)})
    return task.model_copy(update={"data": data})


def _line(task: str, rows: dict[str, list[Prediction]]) -> str:
    cells = (f"{code} {100 * score([r.correct for r in judged]).accuracy:.1f}" for code, judged in rows.items())
    return f"{task} " + " ".join(cells)
