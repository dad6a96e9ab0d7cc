"""``--set a.b=c``: one key of a search set from the command line."""

from __future__ import annotations

import shlex
from typing import Any

from evomerge.config.schema import NAMED
from evomerge.errors import ConfigError, Problem, shown
from evomerge.plugins.registry import did_you_mean
from evomerge.yaml_files import parse_value


def override(content: dict[str, Any], text: str) -> None:
    """Change one key of a search, as ``--set`` asks for it.

    Args:
        content: the search, changed in place.
        text: ``optimizer.population_size=8``, or for the stage called merge
            ``stages.merge.optimizer.population_size=8``; the value is YAML.

    Raises:
        ConfigError: no key and value, or a place that has no keys.
    """
    path, equals, raw = text.partition("=")
    if not equals or not path:
        raise _refusal(text, "expected key=value, e.g. optimizer.population_size=8")
    *parents, last = path.split(".")
    place: Any = content
    for depth, key in enumerate(parents, start=1):
        if isinstance(place, list):
            place = _stage(place, key, text)
        elif (inner := _inner(place, key)) is not None:
            place = inner
        else:
            why = f"{key} is {shown(place[key])}, it has no keys."
            raise _refusal(text, why, _whole(text, depth))
    if isinstance(place, list):
        raise _refusal(text, f"name a key of this stage, e.g. {path}.budget=...")
    try:
        place[last] = parse_value(raw, shown(text))
    except ConfigError as error:
        raise ConfigError([problem.within("--set") for problem in error.details]) from None


def _inner(place: dict[str, Any], key: str) -> Any:
    """What keys may be set in under a key; None where that is something that has none."""
    inner = place.get(key)
    if key == "stages" and isinstance(inner, list):
        place[key] = list(inner)
    elif inner is None or isinstance(inner, bool | dict):
        # keys in place of nothing, or of a switch: "racing: false"
        place[key] = dict(inner) if isinstance(inner, dict) else {}
    elif isinstance(inner, str) and key in NAMED:
        place[key] = {"name": inner}
    else:
        return None
    return place[key]


def _whole(text: str, depth: int) -> str:
    """How to set the same by a mapping at the key of this depth, in place of what is there."""
    path, _, value = text.partition("=")
    keys = path.split(".")
    for key in reversed(keys[depth:]):
        value = f"{{{key}: {value}}}"
    return f"To put keys in its place: --set {shlex.quote('.'.join(keys[:depth]) + '=' + value)}"


def _stage(stages: list[Any], name: str, text: str) -> Any:
    names = [stage.get("name") if isinstance(stage, dict) else None for stage in stages]
    if name not in names:
        known = did_you_mean(name, [str(one) for one in names if one is not None])
        raise _refusal(text, f"no stage is called {shown(name)}.{known}")
    index = names.index(name)
    stages[index] = dict(stages[index])
    return stages[index]


def _refusal(text: str, why: str, cure: str = "") -> ConfigError:
    return ConfigError(Problem((), f"{shown(text)}: {why}", cure, file="--set"))
