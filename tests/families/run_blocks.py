"""What a model answers when blocks of several models are run one after the other by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Calls = dict[tuple[str, int], tuple[Any, Any, Any]]


def composed(
    models: Mapping[str, Any], order: Sequence[tuple[str, int]], inputs: Mapping[str, Any]
) -> Any:
    """The answer of the model ``a`` with the blocks of a stack in the place of its own.

    Every block is called as the block of its number in ``a`` is, with the masks and positions of
    that number, and with what blocks hand on to one another. Blocks that keep their numbers are
    called where those of ``a`` were, with all that the model does between them. The models are of
    no use afterwards.
    """
    model, calls = models["a"], Calls()
    depth = 1 + max(number for _, number in order)
    rows = _rows(model, depth)
    if [number for _, number in order] == list(range(depth)):
        for path in rows:
            others = {name: list(one.get_submodule(path)) for name, one in models.items()}
            for name, number in order if len(others["a"]) == depth else ():
                model.get_submodule(path)[number] = others[name][number]
        return answer(model, inputs)
    handles = [
        block.register_forward_hook(_remember(calls, path, number), with_kwargs=True)
        for path in rows
        for number, block in enumerate(model.get_submodule(path))
    ]
    with torch.no_grad():
        answer(model, inputs)
        for handle in handles:
            handle.remove()
        used = [
            path
            for path in rows
            if all((path, n) in calls for n in range(len(model.get_submodule(path))))
        ]
        if not used:
            raise ValueError("no blocks were called")
        for path in used:
            _replace(path, models, order, calls)
        return answer(model, inputs)


def _rows(model: Any, depth: int) -> list[str]:
    """The paths of the rows of so many blocks, but for those inside blocks."""
    found = [
        path
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) >= depth
    ]
    return [path for path in found if not any(path.startswith(f"{row}.") for row in found)]


def answer(model: Any, inputs: Mapping[str, Any]) -> Any:
    """What a model answers; one that masks at random masks the same every time."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        return model(**inputs)


def _remember(calls: Calls, path: str, number: int) -> Callable[..., None]:
    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        calls[path, number] = args, dict(kwargs), output

    return hook


def _replace(
    path: str, models: Mapping[str, Any], order: Sequence[tuple[str, int]], calls: Calls
) -> None:
    """Let the first block of a row run all blocks of the stack, and the others nothing."""
    own = {name: list(model.get_submodule(path)) for name, model in models.items()}
    forwards = {(name, n): block.forward for name in own for n, block in enumerate(own[name])}
    outputs: list[Any] = []
    handed = _handed_on(path, calls)

    def first(*args: Any, **kwargs: Any) -> Any:
        stream = args[0] if args else kwargs["hidden_states"]
        outputs.clear()
        for name, number in order:
            arguments, keys = _as_called(calls, path, number, args, kwargs)
            if args:
                arguments[0] = stream
            else:
                keys["hidden_states"] = stream
            if outputs:
                keys |= {key: outputs[0][position] for key, position in handed.items()}
            outputs[:] = [forwards[name, number](*arguments, **keys)]
            stream = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
        return outputs[0]

    def nothing(*args: Any, **kwargs: Any) -> Any:
        stream = args[0] if args else kwargs["hidden_states"]
        rest = outputs[0][1:] if isinstance(outputs[0], tuple) else None
        return stream if rest is None else (stream, *rest)

    for number, block in enumerate(own["a"]):
        block.forward = nothing if number else first


def _handed_on(path: str, calls: Calls) -> dict[str, int]:
    """By the key of what a block is given besides its stream, its place in the last outputs."""
    _, keys, _ = calls[path, 1]
    _, _, before = calls[path, 0]
    return {
        key: position
        for key, value in keys.items()
        for position, output in enumerate(before if isinstance(before, tuple) else ())
        if position and isinstance(value, Tensor) and value is output
    }


def _as_called(
    calls: Calls, path: str, number: int, args: Any, kwargs: Any
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a block of this number; those that changed for all blocks are the new."""
    first_args, first_keys, _ = calls[path, 0]
    their_args, their_keys, _ = calls[path, number]
    arguments = [
        their if _same(was, now) else now
        for their, was, now in zip(their_args, first_args, args, strict=True)
    ]
    keys = {
        key: their_keys.get(key) if _same(first_keys.get(key), now) else now
        for key, now in kwargs.items()
    }
    return arguments, keys


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(torch.equal(one, other))
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    return not isinstance(one, Tensor) and not isinstance(other, Tensor)
