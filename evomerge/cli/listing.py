"""What there is to choose from: list."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

Group = Literal["operators", "optimizers", "spaces", "fitness", "engines"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("list")(list_)


def list_(
    group: Annotated[Group, typer.Argument(help="What to list.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print data as JSON.")] = False,
) -> None:
    """List operators, optimizers, engines, or the presets of spaces and fitnesses."""
    rows = _rows(group)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in rows[0] if rows else ["name"]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def _rows(group: Group) -> list[dict[str, Any]]:
    from evomerge import presets, registry

    if group == "operators":
        return [_operator(name) for name in registry.names("operators")]
    if group in ("spaces", "fitness"):
        found = presets.available("search_spaces" if group == "spaces" else "fitness")
        return [
            {"name": name, "about": _first_comment(path.read_text("utf-8")), "from": str(path)}
            for name, path in found.items()
        ]
    return [_component(group, name) for name in registry.names(group)]


def _operator(name: str) -> dict[str, Any]:
    from evomerge.operators import get

    found = get(name)
    needs = {"task_vectors": "a base", "pair": "two models", "weights": "-"}[found.on]
    parameters = ", ".join(found.parameters)
    return {"name": name, "paper": found.paper, "needs": needs, "parameters": parameters}


def _component(group: str, name: str) -> dict[str, Any]:
    from evomerge import registry
    from evomerge.engines import Engine
    from evomerge.optimizers import Optimizer

    about = (registry.module(group, name).__doc__ or "").strip().splitlines()[0]
    kinds: dict[str, type[Any]] = {"optimizers": Optimizer, "engines": Engine}
    found: Any = registry.find(group, name, kinds[group])
    keys = registry.options_model(found).model_fields
    return {"name": name, "about": about, "options": ", ".join(keys)}


def _first_comment(text: str) -> str:
    first = text.split("\n", 1)[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
