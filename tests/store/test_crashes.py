"""A killed writer: what it leaves behind, and who may write next."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import RunError
from evomerge.store import Store
from evomerge.store.database import BUSY_SECONDS

PATIENCE_SECONDS = 120

# Asks and tells without end, and prints a number once its tell is recorded.
WRITER = """
from pathlib import Path
import sys
from evomerge.types import Candidate, Evaluation, Genome, TaskScores
from evomerge.recipes import Recipe
from evomerge.store import RunRecord, Store

folder = Path(sys.argv[1])
if not Store.exists(folder):
    Store.create(folder, RunRecord(name="r", search_yaml="", seed=0, fitness_digest="f",
                                   settings_digest="s")).close()
with Store.open(folder) as store:
    number = sum(event.kind == "tell" for event in store.events())
    asked = len(store.candidates())
    while True:
        recipe = Recipe(base="b", sources={"a": "a", "b": "b"}, operator="linear",
                        parameters={"weight": float(number)}, dtype="float32")
        parents = tuple(range(max(0, number - 2), number))
        genome = Genome({"weight": float(number)}, parents)
        if number == asked:
            store.record_ask(Candidate(number=number, kind="search", genome=genome,
                                       recipe=recipe), 2.0 * number)
            asked += 1
        scores = TaskScores(0.5, tuple(range(2000)), (0.1 + 0.2,) * 2000)
        result = Evaluation("done", {"a": scores, "b": scores}, value=0.5)
        store.record_tell(number, result, elapsed_seconds=2.0 * number + 1)
        print(number, flush=True)
        number += 1
"""

# Dies in the middle of a transaction that has already changed the file itself.
HALF_WRITER = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1] + "/run.sqlite", isolation_level=None)
connection.execute(f"PRAGMA journal_mode = {sys.argv[2]}")
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE events SET elapsed_seconds = -1")
for number in range(2000):
    connection.execute("INSERT INTO recipes VALUES (?, ?, 0)", (f"{number:01000}", "{}"))
os.kill(os.getpid(), signal.SIGKILL)
"""


# Opens and closes the store for every record, so that it is mostly beginning or folding a log.
COMER_AND_GOER = WRITER.replace(
    "        print(number, flush=True)",
    "        store.close()\n        store = Store.open(folder)\n        print(number, flush=True)",
)


def start(code: str, folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), str(folder), *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def next_number(writer: subprocess.Popen[str]) -> int:
    assert writer.stdout is not None
    return int(writer.stdout.readline())


def kill(writer: subprocess.Popen[str]) -> list[int]:
    """SIGKILL, then the numbers that it had still printed."""
    writer.kill()
    output, _ = writer.communicate(timeout=PATIENCE_SECONDS)
    assert writer.returncode == -signal.SIGKILL
    return [int(line) for line in output.split()]


def assert_whole(folder: Path, last_reported: int, *, read_only: bool) -> None:
    """All that was reported as recorded is there, and of the rest whole transactions or nothing."""
    with Store.open(folder, read_only=read_only) as store:
        candidates, events = store.candidates(), store.events()
        asked = [event.number for event in events if event.kind == "ask"]
        reported = [event.number for event in events if event.kind == "tell"]
        assert asked == [candidate.number for candidate in candidates] == list(range(len(asked)))
        assert reported == list(range(len(reported)))
        assert len(asked) - len(reported) in (0, 1)
        assert reported[-1] >= last_reported
        assert store.elapsed_seconds() == events[-1].elapsed_seconds
        for number, candidate in enumerate(candidates):
            assert candidate.genome.parents == tuple(range(max(0, number - 2), number))
        for candidate in candidates[-3:]:
            evaluation = store.evaluation(candidate.recipe.digest)
            assert (evaluation is not None) == (candidate.number in reported)
            if evaluation is not None:
                assert [len(t.example_scores) for t in evaluation.tasks.values()] == [2000, 2000]
    with closing(sqlite3.connect(Store.path(folder))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(WRITER, id="stays"),
        pytest.param(COMER_AND_GOER, id="comes and goes", marks=pytest.mark.slow),
    ],
)
def test_a_writer_killed_at_any_moment_leaves_whole_transactions(code: str, tmp_path: Path) -> None:
    moments = random.Random(0)
    for session in range(4):
        with start(code, tmp_path) as writer:
            last = next_number(writer)
            time.sleep(moments.uniform(0.0, 0.15))
            last = max([last, *kill(writer)])
        assert_whole(tmp_path, last, read_only=session % 2 == 0)


@pytest.mark.slow
def test_a_start_killed_at_any_moment_leaves_a_run_or_none(tmp_path: Path) -> None:
    moments = random.Random(1)
    code = "import evomerge.store, sys; print(0, flush=True)" + WRITER
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        with start(code, folder) as writer:
            next_number(writer)
            time.sleep(moments.uniform(0.0, 0.25))
            kill(writer)
        if Store.exists(folder):
            Store.open(folder).close()
        else:
            with pytest.raises(RunError, match="has no run"):
                Store.open(folder)


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize(("mode", "left"), [("DELETE", "journal"), ("WAL", "wal")])
def test_a_half_written_transaction_is_undone_by_whoever_comes_next(
    tmp_path: Path, run: Any, candidate: Any, read_only: bool, mode: str, left: str
) -> None:
    with Store.create(tmp_path, run) as store:
        store.record_ask(candidate(0), 0.5)
    with start(HALF_WRITER, tmp_path, mode) as writer:
        writer.wait(timeout=PATIENCE_SECONDS)
    assert (tmp_path / f"run.sqlite-{left}").stat().st_size > 2**14
    with Store.open(tmp_path, read_only=read_only) as store:
        assert store.elapsed_seconds() == 0.5
        assert store.candidates() == [candidate(0)]


def test_a_second_writer_learns_who_has_the_run_while_readers_read(tmp_path: Path) -> None:
    with start(WRITER, tmp_path) as writer:
        next_number(writer)
        started = time.monotonic()
        with pytest.raises(RunError, match=rf"is in use by process {writer.pid} on .+ since 2"):
            Store.open(tmp_path)
        assert time.monotonic() - started < BUSY_SECONDS / 2  # refused at once, without a wait
        with Store.open(tmp_path, read_only=True) as reader:
            before = len(reader.events())
            assert before >= 2
            while 2 * next_number(writer) + 2 <= before:
                pass
            assert len(reader.events()) > before
        kill(writer)


def test_the_lock_is_free_after_a_kill(tmp_path: Path) -> None:
    with start(WRITER, tmp_path) as writer:
        next_number(writer)
        kill(writer)
    assert (tmp_path / "run.lock.json").exists()
    with Store.open(tmp_path) as store:
        assert store.events()
        with pytest.raises(RunError, match=f"process {os.getpid()} on"):
            Store.open(tmp_path)
    assert not (tmp_path / "run.lock.json").exists()
