"""Shipped YAML: search spaces and fitnesses found by name, nearest first."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from evomerge.errors import ConfigError, shown
from evomerge.files import absolute
from evomerge.plugins.registry import did_you_mean

PresetKind = Literal["search_spaces", "fitness"]


def locate(kind: PresetKind, name: str, folder: Path) -> Path:
    """The YAML file of a preset.

    Args:
        name: a path seen from ``folder``, or a name in ``./<kind>`` or among the shipped ones.

    Raises:
        ConfigError: there is none; the message suggests the nearest name.
    """
    path = absolute(name, folder)
    if path.suffix in {".yaml", ".yml"}:
        if path.is_file():
            return path
        raise ConfigError(f"{path}: no such file")
    known = available(kind)
    if name not in known:
        raise ConfigError(f"no {kind} preset is called {shown(name)}.{did_you_mean(name, known)}")
    return known[name]


def available(kind: PresetKind) -> dict[str, Path]:
    """Every preset by name; ``./<kind>`` wins over what is shipped."""
    files: dict[str, Path] = {}
    for folder in (shipped(kind), Path.cwd() / kind):
        files |= {file.stem: file for file in sorted(folder.glob("*.yaml")) if file.is_file()}
    return dict(sorted(files.items()))


def shipped(kind: PresetKind) -> Path:
    """Where this installation keeps its presets: in the wheel, or in the checkout."""
    package = Path(__file__).parent
    in_wheel = package / "_shipped" / kind
    return in_wheel if in_wheel.is_dir() else package.parent / kind
