"""What Transformers builds from a config: rows of blocks, and what each block is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from evomerge.weights.architecture.empty import empty_model
from evomerge.weights.architecture.names import language_parts, places, stack

if TYPE_CHECKING:
    from torch import nn

Traits = Mapping[str, Any]


class Anatomy(NamedTuple):
    """What Transformers builds from a config.

    Attributes:
        rows: by the path of a row of blocks, the traits of each of them.
        outside: by name, the shapes of the tensors that are in no block.
        shared: a tensor that several blocks have in common, if there is one.
    """

    rows: Mapping[str, list[Traits]]
    outside: Mapping[str, tuple[int, ...]]
    shared: str | None


def anatomy(config: Mapping[str, Any]) -> Anatomy:
    """What Transformers builds from a config, without weights.

    Raises:
        Exception: whatever Transformers raises where it builds nothing of it.
    """
    return _of(json.dumps(config, sort_keys=True, default=str))


@lru_cache(maxsize=16)
def _of(key: str) -> Anatomy:
    config, model = _first_built(json.loads(key))
    tensors = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = places(tensors, config)
    paths = sorted({str(stack(name)) for name, place in found.items() if place.layer is not None})
    rows = {path: list(model.get_submodule(path).children()) for path in paths}
    return Anatomy(
        {path: [dict(_traits(block)) for block in row] for path, row in rows.items()},
        {name: tensors[name] for name, place in found.items() if place.layer is None},
        next((name for row in rows.values() if (name := _shared(row))), None),
    )


def _shared(row: list[nn.Module]) -> str | None:
    """The first name of a parameter that is one and the same in several blocks."""
    seen: set[int] = set()
    for block in row:
        own = {id(parameter): name for name, parameter in block.named_parameters()}
        if shared := [name for key, name in own.items() if key in seen]:
            return shared[0]
        seen |= own.keys()
    return None


def _first_built(config: dict[str, Any]) -> tuple[dict[str, Any], nn.Module]:
    """The model, or its language part where towers need what is not installed."""
    try:
        return config, empty_model(config)
    except Exception:
        part = next(iter(language_parts(config)), None)
        if part is None:
            raise
        return part, empty_model(part)


def _traits(block: nn.Module) -> Iterator[tuple[str, Any]]:
    """All that a block is, but for the values of its parameters: by path, plain values."""
    for path, module in block.named_modules():
        if "drop" in path:
            continue  # for training alone
        inner = f"{path}." if path else ""
        yield path or "the block", type(module).__qualname__
        for name, value in vars(module).items():
            if not name.startswith("_") and "drop" not in name and _is_plain(value):
                yield f"{inner}{name}", value
        for name, parameter in module.named_parameters(recurse=False):
            yield f"{inner}{name}", tuple(parameter.shape)
        for name, buffer in module.named_buffers(recurse=False):
            yield f"{inner}{name}", tuple(buffer.shape) if buffer.is_meta else buffer.tolist()


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
