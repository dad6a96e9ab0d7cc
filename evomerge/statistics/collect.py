"""Computes statistics of a model on examples and writes them as a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import Parameter

from evomerge.engines._packing import live_arrays
from evomerge.engines.transformers import TransformersEngine
from evomerge.errors import CheckpointError, PlanError
from evomerge.kernels.passes import all_finite
from evomerge.recipes import Recipe
from evomerge.recipes.references import anchor
from evomerge.scoring import Fitness
from evomerge.scoring.texts import search_texts
from evomerge.statistics.collection import BATCH_SIZES, Collection, check
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
from evomerge.weights.architecture.arrays import Leaf
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.inputs import unchanged
from evomerge.weights.library import Library
from evomerge.weights.models import Models
from evomerge.weights.output.folders import new_folder, require_free, require_space
from evomerge.weights.output.writer import SHARD_BYTES, Spec, write_weights
from evomerge.weights.plan import make_plan
from evomerge.weights.statistics import MANIFEST, STEM, Manifest, StatisticsKind


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
    fitness = check(what)
    require_free(out)
    reference = anchor(what.model, Path.cwd())
    models = Library().open(reference, {"model": reference})
    engine = _open(models, reference, what.device)
    try:
        lm: Any = engine.lm
        max_length = min(what.max_length, lm.max_length)
        available, origin = _examples(what, fitness, lm, max_length)
        chosen = draw(available, what.examples, what.seed)
        owners, shared = _owners(models, lm.model)
        size = what.batch_size or BATCH_SIZES[what.kind]
        gatherer = _gatherer(what, lm.model, owners)
        moments = what.kind == "second_moments"
        batched = shuffled_batches(chosen, size, what.seed) if moments else batches(chosen, size)
        with new_folder(out) as partial, unchanged(models, ()):
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
    notes = list(_notes(what, manifest, specs, models.base))
    return Collected(manifest, len(specs), sum(spec.nbytes for spec in specs), notes)


def _gatherer(what: Collection, model: Any, owners: Any) -> _Gatherer:
    """What collects statistics of a kind, batch by batch."""
    if what.kind == "gram":
        return GramMatrices(model, owners, what.diagonal)
    return (
        Fisher(model, owners, what.seed) if what.kind == "fisher" else SecondMoments(model, owners)
    )


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


def _owners(models: Models, model: Any) -> tuple[dict[str, Parameter], dict[str, str]]:
    """Every parameter by the first of its names in the checkpoint; further names to the first.

    Raises:
        PlanError: parameters that are joined or split when they are read from the checkpoint.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    tensors = models.base.tensors
    arrays = live_arrays(models, model, {name: info.shape for name, info in tensors.items()})
    packed = [name for name, array in arrays.items() if not isinstance(array, Leaf)]
    if packed:
        raise PlanError(
            f"{models.base.folder}: {len(packed)} tensors of {type(model).__name__}, {packed[0]} "
            "first, are joined or split when they are read from its files, and statistics are "
            "collected of whole tensors only. Take an operator that needs none."
        )
    live = {array.name: name for name, array in arrays.items() if isinstance(array, Leaf)}
    firsts: dict[int, str] = {}
    shared: dict[str, str] = {}
    for name in sorted(live):
        if live[name] in parameters:  # rather than a buffer
            first = firsts.setdefault(id(parameters[live[name]]), name)
            if first != name:
                shared[name] = first
    return {name: parameters[live[name]] for name in firsts.values()}, shared


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


def _notes(
    what: Collection, manifest: Manifest, specs: Sequence[Spec], checkpoint: Checkpoint
) -> Iterator[str]:
    """What is less than was asked for: examples, and matrices without a Gram matrix."""
    if manifest.examples < what.examples:
        yield (
            f"{what.examples} examples were asked for and {manifest.examples} are there; "
            "all were used."
        )
    having = {spec.name for spec in specs} | manifest.aliases.keys()
    lacking = [
        name
        for name, info in checkpoint.tensors.items()
        if len(info.shape) > 1
        and name not in having
        and checkpoint.places[name].role != "embedding"
    ]
    if manifest.kind == "gram" and lacking:
        yield (
            f"{len(lacking)} matrices, {lacking[0]} first, have no Gram matrix: no linear layer "
            "with them was called. Operators take their plain mean."
        )
