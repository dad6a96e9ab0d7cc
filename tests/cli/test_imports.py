"""What commands import: seconds that a person waits for before the first word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge import __version__
from evomerge.analysis.export import CHECKPOINT
from evomerge.recipes import Lineage, LineageStep, Recipe
from evomerge.store import RunRecord, Store
from evomerge.types import Candidate, Evaluation, Genome, TaskScores

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "experiments" / "zoo"
QUICKSTART = ROOT / "experiments" / "quickstart" / "search.yaml"
SOURCES: dict[str, str | Recipe] = {name: str(ZOO / name) for name in ("arithmetic", "strings")}
HEAVY = (
    *("torch", "numba", "scipy", "pandas", "datasets", "lm_eval", "transformers", "vllm", "ray"),
    *("optuna", "cmaes", "alembic", "sqlalchemy", "numpy", "huggingface_hub", "moocore"),
)

NOTHING: frozenset[str] = frozenset()
NUMBERS = frozenset({"numpy"})
A_RUN = frozenset({"sqlalchemy"})
WITH_NUMPY = A_RUN | NUMBERS
# operators, and lm-eval for its tasks; no optimizer that is not drawn from, and no model
A_CHECK = frozenset(HEAVY) - {"optuna", "cmaes", "vllm", "ray", "alembic"}

# words of a command, the exit code, a part of what it says, what it may import
COMMANDS: tuple[tuple[tuple[str, ...], int, str, frozenset[str]], ...] = (
    (("--help",), 0, "lineage", NOTHING),
    (("list", "spaces"), 0, "dare_ties", NOTHING),
    (("list", "fitness"), 0, "zoo_skills", NOTHING),
    (("list", "optimizers"), 0, "sampler_options", NUMBERS),
    (("list", "engines"), 0, "gpu_memory_utilization", NUMBERS),
    (("list", "operators"), 0, "dare_ties", NOTHING),
    (("show", "RUN"), 0, "--model hf", A_RUN),
    (("show", "RUN", "--json"), 0, '"value": 0.75', A_RUN),
    (("show", "RUN", "--front"), 0, "dominated by none", WITH_NUMPY | {"moocore"}),
    (("export", "RUN", "--weights", "kanji=1"), 0, "operator: linear", WITH_NUMPY | {"moocore"}),
    (("lineage", "RUN"), 0, "2  0.750", WITH_NUMPY),
    (("lineage", "RUN", "--candidate", "3"), 0, "arithmetic 50.0%", WITH_NUMPY),
    (("export", "RUN"), 0, "operator: linear", A_RUN),
    (("export", "RUN", "--format", "mergekit"), 0, "merge_method: linear", A_RUN),
    (("resume", "."), 2, "has no run", WITH_NUMPY),
    (("resume", "RUN", "--set", "seed=1"), 2, "a run goes on as it began", WITH_NUMPY),
    (("resume", "RUN", "--set", "executor=rai"), 2, "no executor is called 'rai'", WITH_NUMPY),
    (("resume", "RUN", "--set", "executor.worker=2"), 2, "worker: unknown key", WITH_NUMPY),
    (("resume", "OLD"), 2, "Go on with evomerge 0.0.0, or begin a new run", WITH_NUMPY),
    (("check", str(QUICKSTART)), 0, "genome dimension", A_CHECK),
)


def recipe(**keys: Any) -> Recipe:
    return Recipe(base=str(ZOO / "base"), sources=SOURCES, dtype="float32", **keys)


def store_run(folder: Path, version: str) -> Path:
    """A finished run of two seeds, the child of both, and one with noise."""
    search = {
        **{"name": "two-skills", "base": str(ZOO / "base"), "sources": SOURCES},
        **{"space": {"kind": "parameter", "operator": "linear"}, "budget": {"evaluations": 4}},
        **{"engine": {"name": "transformers", "device": "cpu"}, "executor": {"name": "local"}},
        "fitness": {
            "include_path": str(ROOT / "fitness" / "zoo_skills"),
            "tasks": {"kanji": {"task": "zoo_kanji", "held_out": "zoo_kanji_held_out"}},
        },
    }
    record = RunRecord(
        name="two-skills",
        search_yaml=yaml.safe_dump(search),
        seed=0,
        fitness_digest="f" * 64,
        settings_digest="s" * 64,
        versions={"evomerge": version},
    )
    noisy = LineageStep(
        number=3, parents=("arithmetic", "strings"), ends=(8,), weights=((0.5, 0.5),), sigma=0.1
    )
    merged = (
        (recipe(operator="linear", parameters={"weight": {"arithmetic": 1, "strings": 0}}), ()),
        (recipe(operator="linear", parameters={"weight": {"arithmetic": 0, "strings": 1}}), ()),
        (
            recipe(
                operator="linear",
                parameters={"weight": {"arithmetic": 0.75, "strings": 0.25}},
            ),
            (0, 1),
        ),
        (recipe(operator="segments", lineage=Lineage(steps=(noisy,))), (0, 1)),
    )
    with Store.create(folder, record) as store, store.together():
        for number, (of, parents) in enumerate(merged):
            genes = {"steps": [noisy.model_dump(mode="json")]} if of.lineage else {}
            store.record_ask(
                Candidate(number=number, kind="search", genome=Genome(genes, parents), recipe=of),
                number,
            )
            value = 0.75 if number == 2 else 0.5
            scores = TaskScores(value, (0, 1), (value, value))
            done = Evaluation("done", {"kanji": scores}, value=value)
            store.record_tell(number, done, elapsed_seconds=number + 0.5)
            store.record_evaluation(of.digest, "held_out", done)
        store.finish()
    (folder / CHECKPOINT).symlink_to(ZOO / "base")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of runs, by the words that stand for them."""
    folder = tmp_path_factory.mktemp("imports")
    return {
        "RUN": str(store_run(folder / "run", __version__)),
        "OLD": str(store_run(folder / "old", "0.0.0")),
    }


def imported_by(code: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """What a process did that ran some code, and the heavy packages that it had in the end."""
    script = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules], end=''))\n"
        f"{code}"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    said, _, modules = done.stdout.rpartition("[")
    done.stdout = said
    return done, set(yaml.safe_load(f"[{modules}"))


@pytest.mark.parametrize(
    ("words", "code", "said", "allowed"), COMMANDS, ids=[" ".join(words) for words, *_ in COMMANDS]
)
def test_a_command_imports_what_it_needs(
    runs: dict[str, str], words: tuple[str, ...], code: int, said: str, allowed: frozenset[str]
) -> None:
    typed = ["evomerge", *(runs.get(word, word) for word in words)]
    done, found = imported_by(f"sys.argv = {typed}\nfrom evomerge.cli import main\nmain()")
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert found <= allowed


READERS: tuple[tuple[str, frozenset[str]], ...] = (
    ("import evomerge", NOTHING),
    ("from evomerge.cli.app import app", NOTHING),
    ("from evomerge.weights.library import Library; Library().open(BASE, {'base': BASE})", NOTHING),
    (
        "from evomerge.analysis.run import Run\nassert Run.open(RUN).best.number == 2\n",
        A_RUN,
    ),
)


@pytest.mark.parametrize(("code", "allowed"), READERS)
def test_a_reader_imports_what_it_needs(
    runs: dict[str, str], code: str, allowed: frozenset[str]
) -> None:
    places = f"from pathlib import Path\nBASE, RUN = {str(ZOO / 'base')!r}, Path({runs['RUN']!r})\n"
    done, found = imported_by(places + code)
    assert done.returncode == 0, done.stderr
    assert found <= allowed
