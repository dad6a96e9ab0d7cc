"""From a search YAML to a search that can run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evomerge import presets
from evomerge.config.compatibility import check_fitness
from evomerge.config.compose import LoadedSearch, compose
from evomerge.config.overrides import override
from evomerge.config.starts import read_starts
from evomerge.config.validation import ProblemCollector
from evomerge.engines import Engine
from evomerge.errors import ConfigError
from evomerge.files import absolute
from evomerge.keys import plain
from evomerge.plugins import registry
from evomerge.plugins.user_code import anchor_code
from evomerge.recipes.mergekit.other_files import instead_of_search
from evomerge.recipes.references import anchor
from evomerge.scoring import Fitness
from evomerge.yaml_files import read_yaml

__all__ = ["LoadedSearch", "fitness_from", "load"]


def load(
    search: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()
) -> LoadedSearch:
    """A search that can run, from its YAML.

    Args:
        search: the path of the YAML, or its keys. Relative paths in it are seen from its folder,
            or from the working directory where there are only keys.
        overrides: ``optimizer.population_size=8`` and the like, values in YAML.

    Raises:
        ConfigError: every problem that headers and names can show, all at once.
    """
    if isinstance(search, Mapping):
        content, file, folder = plain(search), "search", Path.cwd()
    else:
        file, folder = str(search), absolute(Path(search), Path.cwd()).parent
        content = read_yaml(Path(search))
    if text := instead_of_search(content):
        raise ConfigError(f"{file}: {text}")
    collect = ProblemCollector(file)
    dotted = [text for text in overrides if "." in text.partition("=")[0]]
    for text in overrides:
        if text not in dotted:  # another preset, before what is changed in it
            collect.make(override, content, text)
    _inline_presets(content, folder, collect)
    for text in dotted:
        if (text.partition(".")[0],) not in collect.invalid:  # else a preset that is not there
            collect.make(override, content, text)
    if any(text.startswith("stages.") for text in dotted):
        _inline_presets(content, folder, collect)  # they may name other presets
    _anchor_paths(content, folder, collect)
    _read_starts(content, folder, collect)
    return compose(collect.validated(content), collect)


def fitness_from(fitness: str | os.PathLike[str] | Mapping[str, Any], folder: Path) -> Fitness:
    """A fitness preset, the fitness in a file, or one of these keys.

    Args:
        folder: that a relative path is seen from.

    Raises:
        ConfigError: there is none, or something in it is wrong.
    """
    given = fitness if isinstance(fitness, Mapping) else os.fspath(fitness)
    keys = _inlined(plain(given), "fitness", folder)
    try:
        valid = Fitness.model_validate(keys)
    except ValidationError as error:
        file = given if isinstance(given, str) else "fitness"
        raise ConfigError(registry.explain(error, Fitness, file=file)) from None
    check_fitness(valid)
    return valid


def _inline_presets(content: dict[str, Any], folder: Path, collect: ProblemCollector) -> None:
    """Put keys in place of the names of presets; a key whose preset is not found is invalid."""
    stages = content.get("stages")
    spaces = [
        (("stages", index), stage, "space")
        for index, stage in enumerate(stages if isinstance(stages, list) else [])
        if isinstance(stage, dict)
    ]
    for path, owner, key in [((), content, "space"), ((), content, "fitness"), *spaces]:
        if owner.get(key) is not None and (*path, key) not in collect.invalid:
            kind: presets.PresetKind = "fitness" if key == "fitness" else "search_spaces"
            part = collect.part(*path, label=path)
            keys = part.make(_inlined, owner[key], kind, folder, at=key)
            if keys is None:
                collect.invalid.add((*path, key))
            else:
                owner[key] = keys


def _inlined(value: Any, kind: presets.PresetKind, folder: Path) -> Any:
    """A preset's keys, or keys as they are, with their relative paths made absolute."""
    if isinstance(value, str):
        path = presets.locate(kind, value, folder)
        value, folder = read_yaml(path), path.parent
    if not isinstance(value, dict):
        return value
    value = plain(value)
    if isinstance(value.get("include_path"), str):
        value["include_path"] = str(absolute(value["include_path"], folder))
    for task in value["tasks"].values() if isinstance(value.get("tasks"), dict) else ():
        if isinstance(task, dict) and isinstance(task.get("scorer"), str):
            task["scorer"] = anchor_code(task["scorer"], folder)
    return value


def _read_starts(content: dict[str, Any], folder: Path, collect: ProblemCollector) -> None:
    """Put recipes in place of the files in which they are; a key without any is invalid."""
    stages = content.get("stages")
    owners = [
        (("stages", index), stage)
        for index, stage in enumerate(stages if isinstance(stages, list) else [])
        if isinstance(stage, dict)
    ]
    for path, owner in [((), content), *owners]:
        if owner.get("start") is not None:
            part = collect.part(*path, label=path)
            starts = part.make(read_starts, owner["start"], folder, at="start")
            if starts is None:
                collect.invalid.add((*path, "start"))
            else:
                owner["start"] = starts


def _anchor_paths(content: dict[str, Any], folder: Path, collect: ProblemCollector) -> None:
    """Make the paths of models, statistics and code absolute; a key with no path is invalid."""

    def models(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: models(reference) for name, reference in value.items()}
        return anchor(value, folder) if isinstance(value, str) else value

    def engine(keys: Any) -> Any:
        if not isinstance(keys, dict) or keys.get("name") not in registry.names("engines"):
            return keys
        return registry.find("engines", keys["name"], Engine).anchored(keys, folder)

    for key in ("base", "sources", "statistics", "engine"):
        if content.get(key) is None:
            continue
        made = collect.make(engine if key == "engine" else models, content[key], at=key)
        if made is None:
            collect.invalid.add((key,))
        else:
            content[key] = made
