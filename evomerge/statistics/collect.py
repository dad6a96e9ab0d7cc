"""Computes statistics of a model on examples and writes them as a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import Parameter

from evomerge.config.load import fitness_from
from evomerge.engines.transformers import TransformersEngine
from evomerge.errors import CheckpointError, ConfigError
from evomerge.kernels.passes import all_finite
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import Recipe
from evomerge.recipes.references import anchor
from evomerge.scoring import Fitness
from evomerge.scoring.texts import search_texts
from evomerge.statistics.examples import (
    Example,
    batches,
    digest,
    draw,
    from_file,
    from_texts,
    shuffled_batches,
)
from evomerge.statistics.gram import GramMatrices
from evomerge.statistics.squared_gradients import Fisher, SecondMoments
from evomerge.version import __version__
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.library import Library
from evomerge.weights.models import Models
from evomerge.weights.plan import make_plan
from evomerge.weights.statistics import MANIFEST, STEM, Manifest, StatisticsKind
from evomerge.weights.writer import (
    SHARD_BYTES,
    Spec,
    new_folder,
    require_free,
    require_space,
    write_weights,
)

BATCH_SIZES: dict[StatisticsKind, int] = {"fisher": 1, "gram": 8, "second_moments": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Which statistics of which model, and on which examples.

    Attributes:
        model: a folder or hub name.
        kind: ``fisher``, ``gram`` or ``second_moments``.
        text: a text file to take examples from; or
        fitness: a preset's name or path, whose search examples are taken.
        tasks: of the fitness; () takes all.
        examples: how many to draw, at least 1; all if there are fewer.
        max_length: tokens of an example, at least 2; the model's own limit if that is less.
        seed: of the draw, of fisher's labels, and of the batches of second moments.
        device: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes a GPU if there is one.
        batch_size: examples in a batch, not for fisher; None takes `BATCH_SIZES`.
        diagonal: keep the diagonals of Gram matrices only.
    """

    model: str
    kind: StatisticsKind
    text: Path | None = None
    fitness: str | None = None
    tasks: Sequence[str] = ()
    examples: int = 256
    max_length: int = 512
    seed: int = 0
    device: str = "auto"
    batch_size: int | None = None
    diagonal: bool = False


class Collected(NamedTuple):
    """The folder that was written.

    Attributes:
        manifest: what the numbers are of.
        tensors: how many were stored.
        nbytes: their size.
        notes: sentences for the person who asked.
    """

    manifest: Manifest
    tensors: int
    nbytes: int
    notes: list[str]


_Gatherer = Fisher | GramMatrices | SecondMoments


def collect(
    what: Collection,
    out: Path,
    observe: Callable[[int, int], None] = lambda done, total: None,
    shard_bytes: int = SHARD_BYTES,
) -> Collected:
    """Compute the statistics of a model and write them with their manifest.

    The folder appears when it is whole; a failure leaves nothing behind. The same collection on
    the same machine writes the same bytes.

    Args:
        what: the model, the kind of statistics, and the examples.
        out: the folder to make; must not exist, or be empty.
        observe: called with how many examples are done and how many there are.
        shard_bytes: size at which a file is closed and the next one begun.

    Raises:
        InputError: ``out`` is taken, or something of ``what`` is missing or does not fit.
        OutputError: the disk is full, or ``out`` cannot be written.
    """
    fitness = _check(what)
    require_free(out)
    reference = anchor(what.model, Path.cwd())
    models = Library().open(reference, {"model": reference})
    engine = _open(models, reference, what.device)
    try:
        lm: Any = engine.lm
        max_length = min(what.max_length, lm.max_length)
        available, origin = _examples(what, fitness, lm, max_length)
        chosen = draw(available, what.examples, what.seed)
        owners, shared = _owners(models.base, lm.model)
        size = what.batch_size or BATCH_SIZES[what.kind]
        gatherer = _gatherer(what, lm.model, owners)
        moments = what.kind == "second_moments"
        batched = shuffled_batches(chosen, size, what.seed) if moments else batches(chosen, size)
        with new_folder(out) as partial:
            done = 0
            for batch in batched:
                gatherer.add(batch)
                if done == 0:  # fail early on what the first batch shows
                    require_space(partial, out, sum(spec.nbytes for spec in _specs(gatherer)))
                    _require_finite(gatherer, what.kind, models.base)
                done += len(batch)
                observe(done, len(chosen))
            _require_finite(gatherer, what.kind, models.base)
            specs = _specs(gatherer)
            manifest = Manifest(
                evomerge=__version__,
                kind=what.kind,
                diagonal=what.diagonal,
                model=reference,
                fingerprint=models.base.fingerprint,
                data=origin,
                data_digest=digest(chosen),
                examples=len(chosen),
                tokens=gatherer.tokens,
                max_length=max_length,
                seed=what.seed,
                batch_size=size if moments else None,
                aliases=_aliases(gatherer, shared),
            )
            content = manifest.model_dump(exclude_none=True)
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (partial / MANIFEST).write_text(text, encoding="utf-8")
            write_weights(partial, specs, gatherer.results(), shard_bytes, STEM)
    finally:
        engine.close()
    few = f"{what.examples} examples were asked for and {len(chosen)} are there; all were used."
    notes = [few] if len(chosen) < what.examples else []
    notes += _without(manifest, specs, models.base)
    return Collected(manifest, len(specs), sum(spec.nbytes for spec in specs), notes)


def _gatherer(what: Collection, model: Any, owners: Any) -> _Gatherer:
    """What collects statistics of a kind, batch by batch."""
    if what.kind == "fisher":
        return Fisher(model, owners, what.seed)
    if what.kind == "gram":
        return GramMatrices(model, owners, what.diagonal)
    return SecondMoments(model, owners)


def _check(what: Collection) -> Fitness | None:
    """The fitness to take examples from, if there is one, without the tasks that are left out.

    Raises:
        ConfigError: numbers out of range, not exactly one origin of examples, options that the
            kind does not have; all at once.
    """
    problems = [
        f"{name}: expected at least {least}, got {value}"
        for name, value, least in (
            ("examples", what.examples, 1),
            ("max_length", what.max_length, 2),
            ("seed", what.seed, 0),
            ("batch_size", 1 if what.batch_size is None else what.batch_size, 1),
        )
        if value < least
    ]
    if (what.text is None) == (what.fitness is None):
        problems.append("expected either a text or a fitness to take examples from")
    if what.text is not None and not what.text.is_file():
        problems.append(f"{what.text}: no such file. Check the path.")
    if what.tasks and what.fitness is None:
        problems.append("tasks: only a fitness has tasks. Leave them out, or give a fitness.")
    if what.kind == "fisher" and (what.batch_size or 1) > 1:
        problems.append("batch_size: gradients are squared example by example. Leave it out.")
    if what.kind != "gram" and what.diagonal:
        problems.append(f"diagonal: of Gram matrices only, not of {what.kind}. Leave it out.")
    fitness = None
    if what.fitness is not None:
        try:
            fitness = fitness_from(what.fitness, Path.cwd())
            problems += [
                f"tasks: {what.fitness} has no {name!r}.{did_you_mean(name, fitness.tasks)}"
                for name in what.tasks
                if name not in fitness.tasks
            ]
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    if fitness is not None and what.tasks:
        kept = {name: task for name, task in fitness.tasks.items() if name in what.tasks}
        fitness = fitness.model_copy(update={"tasks": kept})
    return fitness


def _open(models: Models, reference: str, device: str) -> TransformersEngine:
    """An engine with the model in float32, its tensors checked."""
    # eager: the faster kinds of attention add up gradients in any order on a GPU
    engine = TransformersEngine(dtype="float32", device=device, attention="eager")
    engine.open(models)
    recipe = Recipe(
        base=reference, sources={"model": reference}, operator="linear", dtype="float32"
    )
    engine.load(make_plan(recipe, models))
    return engine


def _examples(
    what: Collection, fitness: Fitness | None, lm: Any, max_length: int
) -> tuple[list[Example], dict[str, str | list[str]]]:
    """All examples, and where they are from as a manifest says it."""
    if what.text is not None:
        return from_file(what.text, lm, max_length), {"text": what.text.name}
    assert fitness is not None and what.fitness is not None
    origin: dict[str, str | list[str]] = {"fitness": what.fitness, "digest": fitness.digest}
    origin["tasks"] = list(fitness.tasks)
    return from_texts(search_texts(fitness, lm), lm, max_length), origin


def _owners(checkpoint: Checkpoint, model: Any) -> tuple[dict[str, Parameter], dict[str, str]]:
    """Every parameter by the first of its names in the checkpoint; further names to the first."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    firsts: dict[int, str] = {}
    shared: dict[str, str] = {}
    for name in checkpoint.tensors:
        if name in parameters:  # rather than a buffer
            first = firsts.setdefault(id(parameters[name]), name)
            if first != name:
                shared[name] = first
    return {name: parameters[name] for name in firsts.values()}, shared


def _specs(gatherer: _Gatherer) -> list[Spec]:
    return [Spec(n, tuple(t.shape), torch.float32) for n, t in sorted(gatherer.sums.items())]


def _aliases(gatherer: _Gatherer, shared: Mapping[str, str]) -> dict[str, str]:
    both = gatherer.aliases if isinstance(gatherer, GramMatrices) else {}
    both |= {name: both.get(first, first) for name, first in shared.items()}
    return {name: first for name, first in sorted(both.items()) if first in gatherer.sums}


def _require_finite(gatherer: _Gatherer, kind: StatisticsKind, checkpoint: Checkpoint) -> None:
    broken = [name for name, tensor in gatherer.results() if not all_finite(tensor)]
    if broken:
        raise CheckpointError(
            f"{checkpoint.folder}: {kind} statistics of {len(broken)} tensors, {broken[0]} first, "
            "are not finite though the weights are. Leave this model out."
        )


def _without(manifest: Manifest, specs: Sequence[Spec], checkpoint: Checkpoint) -> list[str]:
    """A note on the matrices that have no Gram matrix, embeddings aside."""
    having = {spec.name for spec in specs} | manifest.aliases.keys()
    lacking = [
        name
        for name, info in checkpoint.tensors.items()
        if len(info.shape) > 1
        and name not in having
        and checkpoint.places[name].role != "embedding"
    ]
    if manifest.kind != "gram" or not lacking:
        return []
    return [
        f"{len(lacking)} matrices, {lacking[0]} first, have no Gram matrix: no linear layer with "
        "them was called. Operators take their plain mean."
    ]
