"""The models that are merged, and the tasks that say how well."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
_SKILLS = FOLDER.parents[1] / "fitness" / "zoo_skills"
_MAKE = FOLDER.parent / "zoo" / "make_zoo.py"


@dataclass(frozen=True, slots=True)
class Zoo:
    """Models and tasks of a search.

    Attributes:
        search: its YAML.
        overrides: of single keys of it, as behind ``--set``.
        tasks: those of the search examples; behind each name ``_held_out`` for those held out.
    """

    name: str
    search: Path
    tasks: tuple[str, ...]
    overrides: Sequence[str] = ()

    @property
    def held_out(self) -> list[str]:
        """What makes a search of this zoo ask the held-out examples in place of its own."""
        changes = [f"fitness.tasks.{task}=zoo_{task}_held_out" for task in self.tasks]
        return [*self.overrides, *changes]


_FOUR = ("arithmetic", "strings", "kanji", "cross")
ZOO = Zoo("zoo", FOLDER / "zoo.yaml", _FOUR)
# the same models in spaces that are harder: 72 genes, and operators to choose from
TIES = Zoo("ties_by_block", FOLDER / "zoo.yaml", _FOUR, ["space=ties_by_block"])
OPERATORS = Zoo("operators", FOLDER / "zoo.yaml", _FOUR, ["space=operators"])
BLOCK_ZOO = Zoo("block_zoo", FOLDER / "block_zoo.yaml", ("arithmetic", "kanji"))


def from_seed(seed: int, runs: Path) -> Zoo:
    """The zoo and its tasks made from another seed, with the files of ``experiments/zoo``.

    Args:
        runs: where its folder is; made there in some ten minutes, unless it is there.
    """
    folder = runs / f"zoo_{seed}"
    models, skills = folder / "models", folder / "zoo_skills"
    if not (models / "strings" / "README.md").exists():  # what is written last
        skills.mkdir(parents=True, exist_ok=True)
        for file in (*_SKILLS.glob("*.yaml"), _SKILLS / "utils.py"):
            shutil.copy(file, skills)
        where = ["--models", models, "--data", skills / "data"]
        command = [sys.executable, _MAKE, "--seed", str(seed), *where]
        subprocess.run(list(map(str, command)), check=True)
    names = ("arithmetic", "strings", "kanji")
    overrides = [f"base={models / 'base'}", f"fitness.include_path={skills}"]
    overrides += [f"sources.{name}={models / name}" for name in names]
    return Zoo(f"zoo_{seed}", FOLDER / "zoo.yaml", _FOUR, overrides)
