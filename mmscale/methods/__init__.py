"""Methods by name: one file per paper, found through one line of mmscale/registry.py, and variants of them."""

from __future__ import annotations

from dataclasses import replace

from mmscale import registry
from mmscale.config.run import RunConfig
from mmscale.config.variants import VariantConfig
from mmscale.errors import UserError, unknown_name
from mmscale.methods.base import Method, StageSpec


def method(name: str) -> Method:
    """The method of a name; UserError naming the nearest when there is none."""
    method_of_name: Method = registry.get("methods", name)
    return method_of_name


def recipe(run: RunConfig, name: str) -> Method:
    """The method, or the variant of a run, that a recipe is of, with what its stages train as the run has it; UserError
    naming the nearest when there is neither.
    """
    chosen = _variant(name, run.variants[name]) if name in run.variants else method(name)
    configured = run.recipes.get(name, {})
    own = {stage: config.trains for stage, config in configured.items() if config.trains is not None}
    return replace(
        chosen, stages=tuple(replace(spec, trains=own.get(spec.name, spec.trains)) for spec in chosen.stages)
    )


def _variant(name: str, variant: VariantConfig) -> Method:
    own = variant.stages or {spec.name: spec.name for spec in method(variant.method or "").stages}
    stages, papers, joined_by = [], [], set()
    for stage in own:
        of_method = method(variant.reference(stage)[0])
        stages.append(replace(_stage(of_method, variant.reference(stage)[1]), name=stage))
        papers.append(of_method.paper)
        if of_method.needs_encoder:
            joined_by.add(of_method.connector)
    if variant.connector is None and len(joined_by) > 1:
        listed = " and ".join(sorted(joins or "the run's connector" for joins in joined_by))
        raise UserError(f"variants.{name} has stages of methods that are joined by {listed}: set its connector")
    whole = method(variant.method) if variant.method is not None else None
    if whole is not None and not stages:
        papers.append(whole.paper)
    title = variant.title or name.replace("_", " ").capitalize()
    paper = ", ".join(dict.fromkeys(filter(None, papers)))
    return Method(
        name=name,
        title=title,
        paper=paper,
        stages=tuple(stages),
        prompt=variant.prompt or (whole.prompt if whole is not None else None),
        connector=variant.connector or next(iter(joined_by), None),
    )


def _stage(chosen: Method, name: str) -> StageSpec:
    stages = {spec.name: spec for spec in chosen.stages}
    if name not in stages:
        raise unknown_name(f"stage of {chosen.name}", name, stages)
    return stages[name]


__all__ = ["Method", "StageSpec", "method", "recipe"]
