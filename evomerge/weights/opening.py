"""References to models, and the models that they lead to, each opened once."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.errors import CheckpointError, InputError, PlanError
from evomerge.recipes import Recipe
from evomerge.recipes.references import resolve
from evomerge.weights.adapters import Adapter
from evomerge.weights.checkpoint import Checkpoint, holds_adapter
from evomerge.weights.nested import VirtualCheckpoint

Reference = str | Recipe  # a folder, a hub name, or a recipe in place of one


def key_of(reference: Reference) -> str:
    """The same for references to the same model."""
    return reference if isinstance(reference, str) else f"recipe {reference.digest}"


def label_of(reference: Reference) -> str:
    """What a message calls it."""
    return reference if isinstance(reference, str) else f"a recipe with {reference.operator}"


def open_all(
    base: Reference, sources: Mapping[str, Reference], opened: dict[str, Checkpoint]
) -> dict[str, Checkpoint]:
    """Every model by its key, opened where it is not open yet.

    Raises:
        CheckpointError: folders that cannot be opened, and nothing worse.
        InputError: likewise, and recipes that cannot be planned.
    """
    found: dict[str, Checkpoint] = {}
    problems: list[str] = []
    kinds: set[type[InputError]] = set()
    for name, reference in (("base", base), *sources.items()):
        try:
            if key_of(base) in found and _is_adapter(reference):
                found[key_of(reference)] = _open_adapter(reference, base, opened)
            elif problems and key_of(base) not in found and _is_adapter(reference):
                continue  # what it is made for could not be opened, which is told already
            else:
                found[key_of(reference)] = _open(reference, opened)
        except InputError as error:
            where = f"{name}: " if isinstance(reference, Recipe) else ""
            problems += [f"{where}{problem}" for problem in error.problems]
            kinds.add(type(error))
    if problems:
        kind = CheckpointError if kinds == {CheckpointError} else PlanError
        raise kind(dict.fromkeys(problems))
    return found


def _open(reference: Reference, opened: dict[str, Checkpoint]) -> Checkpoint:
    key = key_of(reference)
    if key in opened:
        return opened[key]
    if isinstance(reference, str):
        opened[key] = Checkpoint(resolve(reference))
        return opened[key]
    # a plan's models may be plans themselves
    from evomerge.weights.models import Models
    from evomerge.weights.plan import make_plan

    opened[key] = VirtualCheckpoint(make_plan(reference, Models.of(reference, opened)))
    return opened[key]


def _open_adapter(
    reference: Reference, base: Reference, opened: dict[str, Checkpoint]
) -> Checkpoint:
    assert isinstance(reference, str)
    key = f"{reference} on {key_of(base)}"  # another recipe may put it on another base
    if key not in opened:
        opened[key] = Adapter(resolve(reference), opened[key_of(base)])
    return opened[key]


def _is_adapter(reference: Reference) -> bool:
    return isinstance(reference, str) and holds_adapter(resolve(reference))
