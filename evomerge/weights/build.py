"""A merged model on disk: a Hugging Face folder that any tool loads, or weights alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import yaml

from evomerge.printable import printable
from evomerge.recipes import Recipe
from evomerge.recipes.references import hub_name
from evomerge.recipes.scored import Scored
from evomerge.recipes.yaml import to_yaml
from evomerge.version import __version__
from evomerge.weights.inputs import require_scored, unchanged
from evomerge.weights.library import Library, read_scored_recipe
from evomerge.weights.merge import merge_into
from evomerge.weights.output.folders import new_folder, require_free, require_space
from evomerge.weights.output.load_notes import plan_notes
from evomerge.weights.output.metadata import write_metadata
from evomerge.weights.output.writer import SHARD_BYTES, Spec, WeightsWriter
from evomerge.weights.zeros import zero_notes


def build(
    recipe: Recipe | Scored | str | Path,
    out: str | Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    title: str = "",
    tell: Callable[[str], object] = lambda note: None,
) -> Path:
    """A new folder with the merged weights, config, tokenizer, generation config and model card.

    What the base does not have is not written: a PyTorch model of your own may be weights alone.
    The folder appears when it is complete; a failure leaves nothing behind. A recipe that says what
    it was scored with is built from these files only.

    Args:
        recipe: what to merge, or a YAML file of it, evomerge's or mergekit's. Relative folders in
            a `Recipe` are seen from the working directory, those in a file from the file.
        out: must not exist, or be an empty folder.
        shard_bytes: the size at which a weights file is closed and the next one begun.
        title: of the model card; the folder's name by default.
        tell: called with each sentence about what the merge leaves out and what has no effect in
            the file, before any work; the model card keeps them.

    Returns:
        ``out``.

    Raises:
        InputError: ``out`` is taken, or the recipe's models cannot be opened or do not fit.
        OutputError: the disk is full, or ``out`` cannot be written.
        CandidateError: the merged weights are not finite.
        SourceChangedError: a file of a model changes meanwhile.
    """
    notes: list[str] = []
    library, scored = Library(), [recipe] if isinstance(recipe, Scored) else []
    if isinstance(recipe, Scored):
        recipe = recipe.recipe
    elif not isinstance(recipe, Recipe):
        recipe, scored = read_scored_recipe(Path(recipe), notes.append)
    out = Path(out)
    require_free(out)
    plan = library.plan(recipe)
    for one in scored:
        require_scored(library.models(one.recipe), one)
    notes += [*plan_notes(plan), *zero_notes(plan.operator, plan.steps)]
    for note in notes:
        tell(note)
    with new_folder(out) as folder, unchanged(plan.models, recipe.statistics.values()):
        require_space(folder, out, plan.nbytes)
        specs = [Spec(step.slot.name, step.slot.shape, step.dtype) for step in plan.steps]
        with WeightsWriter(folder, specs, shard_bytes) as writer:
            merge_into(plan, lambda step: partial(writer.write, step.slot.name))
        write_metadata(plan.models, folder, recipe.dtype)
        name = title or out.absolute().name
        card = model_card(recipe, name, bare=plan.models.base.bare, notes=notes)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return out


def model_card(recipe: Recipe, title: str, *, bare: bool = False, notes: Sequence[str] = ()) -> str:
    """Markdown with the metadata block that the hub reads.

    Args:
        recipe: what was merged.
        title: the model's name.
        bare: whether it is no Transformers model.
        notes: about what the merge changed or left out.
    """
    hub = list(dict.fromkeys(name for model in recipe.leaves() if (name := hub_name(model))))
    metadata = {
        **({} if bare else {"library_name": "transformers", "pipeline_tag": "text-generation"}),
        "tags": ["merge", "evomerge"],
        **({"base_model": hub, "base_model_relation": "merge"} if hub else {}),
    }
    count = "1 source" if len(recipe.sources) == 1 else f"{len(recipe.sources)} sources"
    rows = [f"| {printable(name)} | {_cell(model)} |" for name, model in recipe.sources.items()]
    sources = "\n".join(rows)
    card = f"""---
{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).strip()}
---

# {printable(title)}

A merge of {count} with the operator `{recipe.operator}`, made by evomerge {__version__}.
{_stack(recipe)}The recipe below rebuilds these weights byte for byte with `evomerge build`.

| source | model |
|---|---|
| (base) | {_cell(recipe.base)} |
{sources}

```yaml
{to_yaml(recipe).strip()}
```
{_noted(notes)}"""
    return printable(card, lines=True)


def _noted(notes: Sequence[str]) -> str:
    """A section with the notes; empty without any."""
    lines = "".join(f"- {' '.join(note.split())}\n" for note in notes)
    return f"\n## Notes\n\n{lines}" if lines else ""


def _stack(recipe: Recipe) -> str:
    """A line about how many blocks come from which models; empty for a recipe without slices.

    Where blocks are repeated, the number of different ones is added.
    """
    blocks = [
        (tuple(slice_), tuple(start + step for start, _ in slice_.values()))
        for slice_ in recipe.slices
        for first, end in [next(iter(slice_.values()))]
        for step in range(end - first)
    ]
    if not blocks:
        return ""
    counts = Counter(names for names, _ in blocks)
    distinct = Counter(names for names, _ in set(blocks))
    parts = [
        f"{count} {_owners(names)}"
        + (f" ({distinct[names]} different ones)" if distinct[names] < count else "")
        for names, count in counts.items()
    ]
    scaled = " The stream between them is scaled." if recipe.scales else ""
    word = "block" if len(blocks) == 1 else "blocks"
    return f"It stacks {len(blocks)} {word}: {_listed(parts)}.{scaled}\n"


def _owners(names: Sequence[str]) -> str:
    """The models whose blocks an output block is merged from; one where it is a copy."""
    quoted = [f"`{name}`" for name in names]
    return f"of {quoted[0]}" if len(quoted) == 1 else f"merged of {_listed(quoted)}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _cell(model: str | Recipe) -> str:
    if isinstance(model, str):
        return f"`{printable(model)}`"
    inner = ", ".join(f"`{name}`" for name in dict.fromkeys(model.leaves()))
    return f"a merge with `{model.operator}` of {inner}"
