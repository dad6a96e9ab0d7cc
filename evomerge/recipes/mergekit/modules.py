"""mergekit's modules: names for parts of a model, their tensors, and what each is merged from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from evomerge.plugins.registry import did_you_mean
from evomerge.recipes.mergekit.read_models import Model, ModelReader
from evomerge.recipes.places import Places, numbered

DEFAULT = "default"  # mergekit's only module of a model that is not composite

# From the architectures of mergekit 0.1.5. A module has groups of prefixes, and the first group
# applies whose first prefix some tensor has.
_LANGUAGE = ("model.embed_tokens", "model.layers", "model.norm", "lm_head")
_KNOWN: Mapping[str, Sequence[Sequence[str]]] = {
    "text_decoder": (
        ("language_model",),
        ("model.language_model", "lm_head"),
        _LANGUAGE,
    ),
    "vision_tower": (
        ("vision_tower",),
        ("model.vision_tower",),
        ("visual.patch_embed", "visual.blocks", "visual.pos_embed"),
        ("model.visual.patch_embed", "model.visual.pos_embed", "model.visual.blocks"),
    ),
    "vision_model": (("vision_model",), ("model.vision_model",)),
    "multi_modal_projector": (
        ("multi_modal_projector",),
        ("model.multi_modal_projector",),
        ("visual.merger",),
        ("model.visual.merger", "model.visual.deepstack_merger_list"),
    ),
    "decoder": (("decoder",), ("model.decoder",)),
    "encoder": (("encoder",), ("model.encoder",)),
    "shared": (("shared", "lm_head"),),
}


def prefixes(module: str, modules: Collection[str], names: Collection[str]) -> tuple[str, ...]:
    """The prefixes of a module's tensors.

    Args:
        module: a name from mergekit's architectures, or a stack of blocks as it infers one from
            tensor names, e.g. ``model.layers``; ``default`` is what the other modules leave.
        modules: all that the YAML names.
        names: the model's tensors.

    Raises:
        ValueError: the model has no such module.
    """
    if module == DEFAULT:
        others = [p for other in modules if other != DEFAULT for p in prefixes(other, (), names)]
        if not others:
            return ()
        return tuple(name for name in names if not under(name, others))
    for group in _KNOWN.get(module, ()):
        if any(under(name, group[:1]) for name in names):
            return tuple(p for p in group if any(under(name, [p]) for name in names))
    if any(under(name, [module]) for name in names):
        return (module,)
    raise ValueError(f"no such module.{did_you_mean(module, [DEFAULT, *known(names)])}")


def known(names: Iterable[str]) -> list[str]:
    """The modules of a model: those of its architecture, and its stacks of blocks."""
    names = list(names)
    found = [
        module
        for module, groups in _KNOWN.items()
        if any(under(name, group[:1]) for group in groups for name in names)
    ]
    stacks = [block.stack for block in map(numbered, names) if block is not None]
    return list(dict.fromkeys([*found, *stacks]))


def named(wanted: Sequence[str], names: Collection[str]) -> list[str] | None:
    """The modules that together hold exactly the tensors under these prefixes, or None."""
    chosen = {name for name in names if under(name, wanted)}
    found = []
    for module in known(names):
        inside = {name for name in names if under(name, prefixes(module, (), names))}
        if inside and inside <= chosen:
            found.append(module)
            chosen -= inside
    return None if chosen else found


def under(name: str, starts: Iterable[str]) -> bool:
    """Whether a tensor's name begins with one of the prefixes, whole parts only."""
    return any(name == start or name.startswith(f"{start}.") for start in starts)


class Merge(NamedTuple):
    """One of the merges that a YAML asks for.

    Attributes:
        modules: prefixes of the tensors that it is for; () for all.
        keys: hold ``models`` or ``slices``.
        path: of the keys in the YAML, with a dot at its end.
    """

    modules: tuple[str, ...]
    keys: dict[str, Any]
    path: str


def merges(
    content: dict[str, Any],
    base: Model | None,
    reader: ModelReader,
    places: Callable[[Model], Places],
) -> Iterator[Merge]:
    """Each merge, in the order of the YAML; modules that are merged alike are one.

    Args:
        content: the parsed YAML.
        base: what ``base_model`` names.
        places: of the tensors of a model, asked for if there are modules besides `DEFAULT`.

    Raises:
        RecipeError: there is nothing to merge.
    """
    modules = content.get("modules")
    if not modules:
        yield Merge((), content, "")
        return
    groups = _groups(content, base, reader)
    if list(modules) == [DEFAULT]:
        yield Merge((), groups[0][1], f"modules.{DEFAULT}.")
        return
    if not base:
        slices = reader.slices(groups[0][1], f"modules.{groups[0][0][0]}.")
        reader.problems.stop()
        base = slices[0].models[0].model
    names = places(base)
    for chosen, keys in groups:
        starts: tuple[str, ...] = ()
        for module in chosen:
            try:
                starts += prefixes(module, modules, names)
            except ValueError as error:
                reader.problems.add(f"modules.{module}", str(error))
        if len(groups) == 1 and all(under(name, starts) for name in names):
            starts = ()
        yield Merge(starts, keys, f"modules.{chosen[0]}.")


def _groups(
    content: dict[str, Any], base: Model | None, reader: ModelReader
) -> list[tuple[list[str], dict[str, Any]]]:
    """Groups of modules with the same keys, and these keys; without copies of the base's."""
    modules, problems = content["modules"], reader.problems
    if not isinstance(modules, dict):
        problems.add("modules", "expected names of modules and what they are merged from")
        modules = {}
    if content.get("models") or content.get("slices"):
        problems.add("modules", "give either modules, models or slices")
    groups: list[tuple[list[str], dict[str, Any]]] = []
    for module, definition in modules.items():
        known = ("models", "slices", "parameters")
        keys = problems.check_keys(definition, f"modules.{module}", known)
        if _copies_base(keys, base, reader):
            continue
        names = next((names for names, other in groups if other == keys), [])
        if not names:
            groups.append((names, keys))
        names.append(str(module))
    if modules and not groups:
        problems.add("modules", "expected one with a model besides the base")
    problems.stop()
    return groups


def _copies_base(keys: dict[str, Any], base: Model | None, reader: ModelReader) -> bool:
    """Whether a module is the base's, listed because mergekit writes none that are not."""
    models = keys.get("models")
    if not (isinstance(models, list) and len(models) == 1 and isinstance(models[0], dict)):
        return False
    plain = models[0].get("parameters") in (None, {"weight": 1})
    return base is not None and plain and reader.model(models[0].get("model"), "") == base
