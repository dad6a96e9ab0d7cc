"""A merged model on disk: a Hugging Face folder that any tool loads, or weights alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from evomerge.recipes import Recipe
from evomerge.weights.library import Library, read_recipe
from evomerge.weights.merge import merge_into
from evomerge.weights.metadata import write_metadata
from evomerge.weights.model_card import model_card
from evomerge.weights.plan import Plan
from evomerge.weights.writer import (
    SHARD_BYTES,
    Spec,
    WeightsWriter,
    new_folder,
    require_free,
    require_space,
)


def build(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    title: str = "",
) -> Path:
    """A new folder with the merged weights, config, tokenizer, generation config and model card.

    What the base does not have is not written: a PyTorch model of your own may be weights alone.
    The folder appears when it is complete; a failure leaves nothing behind.

    Args:
        recipe: what to merge, or a YAML file of it, evomerge's or mergekit's. Relative folders in
            a `Recipe` are seen from the working directory, those in a file from the file.
        out: must not exist, or be an empty folder.
        shard_bytes: the size at which a weights file is closed and the next one begun.
        title: of the model card; the folder's name by default.

    Returns:
        ``out``.

    Raises:
        InputError: ``out`` is taken, or the recipe's models cannot be opened or do not fit.
        OutputError: the disk is full, or ``out`` cannot be written.
        CandidateError: the merged weights are not finite.
    """
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(Path(recipe))
    out = Path(out)
    require_free(out)
    plan = Library().plan(recipe)
    with new_folder(out) as folder:
        require_space(folder, out, plan.nbytes)
        _fill(folder, plan, shard_bytes, title or out.absolute().name)
    return out


def _fill(folder: Path, plan: Plan, shard_bytes: int, title: str) -> None:
    specs = [Spec(step.slot.name, step.slot.shape, step.dtype) for step in plan.steps]
    with WeightsWriter(folder, specs, shard_bytes) as writer:
        merge_into(plan, lambda step: partial(writer.write, step.slot.name))
    write_metadata(plan.models, folder, plan.recipe.dtype)
    card = model_card(plan.recipe, title, bare=plan.models.base.bare)
    (folder / "README.md").write_text(card, encoding="utf-8")
