"""``--set a.b=c``: one key of a search set from the command line."""

from __future__ import annotations

from typing import Any

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
    for key in parents:
        place = _stage(place, key, text) if isinstance(place, list) else _inner(place, key, text)
    if isinstance(place, list):
        raise _refusal(text, f"name a key of this stage, e.g. {path}.budget=...")
    try:
        place[last] = parse_value(raw, shown(text))
    except ConfigError as error:
        raise ConfigError([problem.within("--set") for problem in error.details]) from None


def _inner(place: dict[str, Any], key: str, text: str) -> Any:
    """The mapping or list under a key; a new mapping where there is nothing yet."""
    inner = place.get(key)
    if key == "stages" and isinstance(inner, list):
        place[key] = list(inner)
        return place[key]
    if inner is not None and not isinstance(inner, (str, dict)):
        raise _refusal(text, f"{key} is {shown(inner)}, it has no keys")
    # "optimizer: cmaes" is short for "optimizer: {name: cmaes}"
    place[key] = {"name": inner} if isinstance(inner, str) else dict(inner or {})
    return place[key]


def _stage(stages: list[Any], name: str, text: str) -> Any:
    names = [stage.get("name") if isinstance(stage, dict) else None for stage in stages]
    if name not in names:
        known = did_you_mean(name, [str(one) for one in names if one is not None])
        raise _refusal(text, f"no stage is called {shown(name)}.{known}")
    index = names.index(name)
    stages[index] = dict(stages[index])
    return stages[index]


def _refusal(text: str, why: str) -> ConfigError:
    return ConfigError(Problem((), f"{shown(text)}: {why}", file="--set"))
