"""What Transformers will say when it loads a merged model, before anything is merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.errors import PlanError, listed
from evomerge.weights.conformity import RefusedError, report
from evomerge.weights.metadata import merged_config

if TYPE_CHECKING:
    from evomerge.weights.models import Models


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
    notes = []
    if found.unexpected:
        notes.append(f"{found.kind} does not read {listed(sorted(found.unexpected))}.")
    if found.missing:
        lost = listed(sorted(found.missing))
        notes.append(f"no model has {lost}: {found.kind} begins with random numbers there.")
    return notes
