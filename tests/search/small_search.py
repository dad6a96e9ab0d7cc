"""The search that tests of what a YAML says begin with: two sources, one weight of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "experiments" / "zoo"
SOURCES = ("arithmetic", "strings")


def skills(others: dict[str, Any] | None = None, **of_tasks: Any) -> dict[str, Any]:
    """A fitness of the skill of each source.

    Args:
        others: tasks beside them.
        of_tasks: keys that both tasks have.
    """
    known = {name: {"task": f"zoo_{name}", **of_tasks} for name in SOURCES}
    folder = ROOT / "fitness" / "zoo_skills"
    return {"include_path": str(folder), "tasks": {**known, **(others or {})}}


SMALL: dict[str, Any] = {
    "name": "small",
    "base": str(ZOO / "base"),
    "sources": {name: str(ZOO / name) for name in SOURCES},
    "space": {
        "kind": "parameter",
        "operator": "task_arithmetic",
        "parameters": {"weight": {"low": 0, "high": 1.5}},
    },
    "fitness": skills(search_examples=8, held_out_examples=8),
    "engine": {"name": "transformers", "threads": 1, "device": "cpu"},
}
