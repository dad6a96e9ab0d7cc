"""mergekit's modules: names for parts of a model, and the prefixes of their tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from evomerge.plugins.registry import did_you_mean

DEFAULT = "default"  # mergekit's only module of a model that is not composite

_NUMBER = re.compile(r"\.\d+\.")

# From the architectures of mergekit 0.1.5. Of a module's groups of prefixes, the first applies
# whose first prefix some tensor has.
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
    stacks = [name[: match.start()] for name in names if (match := _NUMBER.search(name))]
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
