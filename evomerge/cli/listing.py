"""What there is to choose from: list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.table import Table

from evomerge.cli._console import console, print_json

Group = Literal["operators", "optimizers", "spaces", "fitness", "engines"]
OPERATOR_COLUMNS = ("name", "paper", "needs", "genes")  # --json has the parameters, too


def list_(
    group: Annotated[Group, typer.Argument(help="What to list.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print data as JSON.")] = False,
) -> None:
    """List operators, optimizers, engines, or the presets of spaces and fitnesses."""
    rows = _rows(group)
    if as_json:
        print_json(rows)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = OPERATOR_COLUMNS if group == "operators" else tuple(rows[0] if rows else ["name"])
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    console(width=160).print(table)


def _rows(group: Group) -> list[dict[str, Any]]:
    from evomerge import presets
    from evomerge.plugins import registry

    if group == "operators":
        return [_operator(name) for name in registry.names("operators")]
    if group in ("spaces", "fitness"):
        paths = presets.available("search_spaces" if group == "spaces" else "fitness")
        return [
            {"name": name, "about": _first_comment(path.read_text("utf-8")), "from": str(path)}
            for name, path in paths.items()
        ]
    return [_component(group, name) for name in registry.names(group)]


def _operator(name: str) -> dict[str, Any]:
    from evomerge import presets
    from evomerge.operators import describe, outline

    operator = outline(name)
    described = describe(operator)
    preset = presets.available("search_spaces").get(name)
    return {
        "name": name,
        "about": described.about,
        "paper": operator.paper,
        "needs": list(described.needs),
        "on": operator.on,
        "sources": operator.sources,
        "statistics": operator.statistics,
        "random": operator.random,
        "ordered": operator.ordered,
        "experimental": operator.experimental,
        "modifiers": described.modified,
        "genes": [] if preset is None else genes(preset),
        "parameters": [asdict(setting) for setting in described.settings],
    }


def genes(preset: Path) -> list[dict[str, Any]]:
    """What a preset searches: a row for each parameter.

    Args:
        preset: the path of its YAML.

    Returns:
        ``name`` and ``per_source`` of each, and the keys of `Range` as the preset gives them.
    """
    from evomerge.operators import outline
    from evomerge.spaces.parameter import Range
    from evomerge.yaml_files import read_yaml

    keys = read_yaml(preset)
    operator = keys.get("operator", preset.stem)
    operators = [outline(name) for name in ([operator] if isinstance(operator, str) else operator)]
    rows = [
        {"name": name, "per_source": any(name in o.per_source for o in operators), **setting}
        for name, setting in (keys.get("parameters") or {}).items()
        if isinstance(setting, dict) and setting.keys() & Range.model_fields.keys()
    ]
    return [*rows, *([{"name": "order", "per_source": True}] if keys.get("order") else [])]


def _cell(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return ", ".join(_gene(item) if isinstance(item, dict) else str(item) for item in value)


def _gene(gene: Mapping[str, Any]) -> str:
    """Name and range in a few characters: ``density_i 0.05…1 log``."""
    parts = [gene["name"] + "_i" * gene["per_source"]]
    if "choices" in gene:
        parts.append("|".join(map(str, gene["choices"])))
    elif gene.get("simplex"):
        parts.append("simplex")
    elif "low" in gene:
        parts.append("…".join(_short(gene[key]) for key in ("low", "high")))
    return " ".join([*parts, *([gene["scale"]] if "scale" in gene else [])])


def _short(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _component(group: str, name: str) -> dict[str, Any]:
    from evomerge.engines import Engine
    from evomerge.optimizers import Optimizer
    from evomerge.plugins import registry

    about = (registry.module(group, name).__doc__ or "").strip().splitlines()[0]
    kinds: dict[str, type[Any]] = {"optimizers": Optimizer, "engines": Engine}
    component: Any = registry.find(group, name, kinds[group])
    keys = registry.options_model(component).model_fields
    return {"name": name, "about": about, "options": ", ".join(keys)}


def _first_comment(text: str) -> str:
    first = text.split("\n", 1)[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
