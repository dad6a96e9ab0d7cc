"""Computes statistics of a model on examples and writes them as a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch.nn import Parameter

from evomerge.engines.transformers import TransformersEngine
from evomerge.errors import CheckpointError
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
        available = _examples(what, fitness, lm, max_length)
        chosen = draw(available, what.examples, what.seed)
        owners, shared = _owners(models.base, lm.model)
        gatherer = _gatherer(what, lm.model, owners)
        with new_folder(out) as partial:
            done = 0
            for batch in _batches(what, chosen):
                gatherer.add(batch)
                if done == 0:  # fail early on what the first batch shows
                    require_space(partial, out, sum(spec.nbytes for spec in gatherer.specs))
                    _require_finite(gatherer, what.kind, models.base)
                done += len(batch)
                observe(done, len(chosen))
            _require_finite(gatherer, what.kind, models.base)
            specs = gatherer.specs
            manifest = Manifest(
                evomerge=__version__,
                kind=what.kind,
                diagonal=what.diagonal,
                model=reference,
                fingerprint=models.base.fingerprint,
                data=_origin(what, fitness),
                data_digest=digest(chosen),
                examples=len(chosen),
                tokens=gatherer.tokens,
                max_length=max_length,
                seed=what.seed,
                batch_size=_batch_size(what) if what.kind == "second_moments" else None,
                aliases=_aliases(gatherer, shared),
            )
            _write(partial, manifest, gatherer, shard_bytes)
    finally:
        engine.close()
    notes = [*_too_few(what, len(chosen)), *_without(manifest, specs, models.base)]
    return Collected(manifest, len(specs), sum(spec.nbytes for spec in specs), notes)


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


def _examples(what: Collection, fitness: Fitness | None, lm: Any, max_length: int) -> list[Example]:
    if fitness is not None:
        return from_texts(search_texts(fitness, lm), lm, max_length)
    assert what.text is not None
    return from_file(what.text, lm, max_length)


def _origin(what: Collection, fitness: Fitness | None) -> dict[str, str | list[str]]:
    if fitness is not None and what.fitness is not None:
        return {"fitness": what.fitness, "digest": fitness.digest, "tasks": list(fitness.tasks)}
    return {"text": what.text.name if what.text is not None else ""}


def _gatherer(what: Collection, model: Any, owners: Mapping[str, Parameter]) -> _Gatherer:
    if what.kind == "fisher":
        return Fisher(model, owners, what.seed)
    if what.kind == "second_moments":
        return SecondMoments(model, owners)
    return GramMatrices(model, owners, what.diagonal)


def _batch_size(what: Collection) -> int:
    return what.batch_size or BATCH_SIZES[what.kind]


def _batches(what: Collection, chosen: Sequence[Example]) -> Iterator[list[Example]]:
    if what.kind == "second_moments":
        return shuffled_batches(chosen, _batch_size(what), what.seed)
    return batches(chosen, _batch_size(what))


def _write(folder: Path, manifest: Manifest, gatherer: _Gatherer, shard_bytes: int) -> None:
    content = (
        json.dumps(manifest.model_dump(exclude_none=True), indent=2, ensure_ascii=False) + "\n"
    )
    (folder / MANIFEST).write_text(content, encoding="utf-8")
    write_weights(folder, gatherer.specs, gatherer.results(), shard_bytes, STEM)


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


def _aliases(gatherer: _Gatherer, shared: Mapping[str, str]) -> dict[str, str]:
    stored = {spec.name for spec in gatherer.specs}
    both = dict(gatherer.aliases)
    both |= {name: both.get(first, first) for name, first in shared.items()}
    return {name: first for name, first in sorted(both.items()) if first in stored}


def _require_finite(gatherer: _Gatherer, kind: StatisticsKind, checkpoint: Checkpoint) -> None:
    broken = [name for name, tensor in gatherer.results() if not all_finite(tensor)]
    if broken:
        raise CheckpointError(
            f"{checkpoint.folder}: {kind} statistics of {len(broken)} tensors, {broken[0]} first, "
            "are not finite though the weights are. Leave this model out."
        )


def _too_few(what: Collection, available: int) -> list[str]:
    if available >= what.examples:
        return []
    return [f"{what.examples} examples were asked for and {available} are there; all were used."]


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
