"""What Transformers will say when it loads a merged model, before anything is merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.errors import PlanError, listed
from evomerge.weights.architecture.conformity import RefusedError, Report, report
from evomerge.weights.architecture.names import stack, within_block
from evomerge.weights.output.metadata import merged_config

if TYPE_CHECKING:
    from evomerge.weights.models import Models
    from evomerge.weights.plan import Plan


def plan_notes(plan: Plan) -> list[str]:
    """All that a user should know of a merged model before it is made; each sentence once.

    Raises:
        PlanError: as `load_notes`.
    """
    return list(dict.fromkeys([*plan.models.notes, *load_notes(plan.models, plan.recipe.dtype)]))


def load_notes(models: Models, dtype: str) -> list[str]:
    """Sentences about tensors that Transformers will not read, or will make up.

    Args:
        dtype: of the merged weights.

    Raises:
        PlanError: Transformers knows this type of model, but not with this config or these shapes.
    """
    where = models.base.folder / "config.json"
    config = {} if models.base.bare else merged_config(models, dtype)
    try:
        found = report(config, {slot.name: slot.shape for slot in models.slots})
    except RefusedError as error:
        raise PlanError(
            f"{where}: Transformers cannot build this model: {error}. Repair the config."
        ) from None
    if found is None:
        return []
    if wrong := found.mismatched.values():
        raise PlanError([f"{where}: {sentence}. Repair the config." for sentence in wrong])
    if models.origins is not None and (strays := _in_blocks(models, found)):
        raise PlanError(
            f"slices: {found.kind} would have other blocks than are stacked, for its config does "
            f"not count them: {listed(strays)}. Leave the blocks where they are."
        )
    notes = []
    if found.unexpected:
        notes.append(f"{found.kind} does not read {listed(sorted(found.unexpected))}.")
    if found.missing:
        lost = listed(sorted(found.missing))
        notes.append(f"no model has {lost}: {found.kind} begins with random numbers there.")
    return notes


def _in_blocks(models: Models, found: Report) -> list[str]:
    """Tensors in numbered parts that a stack lacks or has too many, where its base does not."""
    base = models.base
    own = report(base.config, {name: info.shape for name, info in base.tensors.items()})
    known = set() if own is None else {within_block(n) for n in own.missing | own.unexpected}
    strays = found.missing | found.unexpected
    return sorted(n for n in strays if stack(n) is not None and within_block(n) not in known)
