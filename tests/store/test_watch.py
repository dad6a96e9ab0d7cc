"""A run whose file is taken away under the search: nothing is lost, and it is said where all is."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import StoreError
from evomerge.store import Store, file_systems
from evomerge.store.checking import differences

WRITTEN_ANEW = "All that was recorded is written anew. Go on with: evomerge resume"


def remove(pattern: str) -> Callable[[Path], None]:
    def act(run: Path) -> None:
        for file in run.glob(pattern):
            file.unlink()

    return act


RESTORED: dict[str, Callable[[Path], object]] = {
    "rm run.sqlite": remove("run.sqlite"),
    "rm run.sqlite*": remove("run.sqlite*"),
    "rm run.sqlite-wal": remove("run.sqlite-wal"),
    "rm run.sqlite-shm": remove("run.sqlite-shm"),
    "rm -r run": shutil.rmtree,
    "mv run away": lambda run: run.rename(run.with_name("away")),
    "mv run.sqlite away": lambda run: Store.path(run).rename(run / "away"),
}


@pytest.fixture
def folder(tmp_path: Path, run: Any, candidate: Any, evaluation: Any) -> Path:
    """A run of three candidates; the fourth comes when its file is gone."""
    made = tmp_path / "run"
    with Store.create(made, run) as store:
        record(store, candidate, evaluation, range(3))
    return made


def record(store: Store, candidate: Any, evaluation: Any, numbers: Any) -> None:
    for number in numbers:
        store.record_ask(candidate(number), float(number))
        store.record_tell(number, evaluation(number / 10), elapsed_seconds=number + 0.5)


def contents(folder: Path) -> tuple[object, ...]:
    with Store.open(folder, read_only=True) as store:
        return store.run(), store.candidates(), store.events(), list(store.evaluations("search"))


def on_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system on which there is no log."""
    monkeypatch.setattr(file_systems, "MOUNTS", Path("/no such file"))


@pytest.mark.parametrize("what", RESTORED)
@pytest.mark.parametrize("log", [True, False], ids=["log", "journal"])
def test_what_is_removed_is_written_anew_at_the_next_record(
    what: str,
    log: bool,
    folder: Path,
    candidate: Any,
    evaluation: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not log:
        on_a_network(monkeypatch)
        if "sqlite-" in what:
            return  # there is none
    with pytest.raises(StoreError, match=WRITTEN_ANEW), Store.open(folder) as store:
        record(store, candidate, evaluation, range(3, 6))
        expected = store.candidates(), store.events()
        RESTORED[what](folder)
        store.record_ask(candidate(6), 9.0)
    assert [file.name for file in folder.glob("run.sqlite*")] == ["run.sqlite"]
    assert differences(folder) == []
    assert contents(folder)[1:3] == expected
    with Store.open(folder) as store:  # it goes on
        record(store, candidate, evaluation, [6])


def test_what_is_removed_after_the_last_record_is_written_anew_at_the_end(
    folder: Path, candidate: Any, evaluation: Any
) -> None:
    with pytest.raises(StoreError, match=WRITTEN_ANEW), Store.open(folder) as store:
        record(store, candidate, evaluation, [3])
        shutil.rmtree(folder)
    assert len(contents(folder)[1]) == 4  # type: ignore[arg-type]


def test_what_is_removed_within_a_group_is_written_anew_after_it(
    folder: Path, candidate: Any, evaluation: Any
) -> None:
    with pytest.raises(StoreError, match=WRITTEN_ANEW), Store.open(folder) as store:
        with store.together():
            record(store, candidate, evaluation, [3])
            Store.path(folder).unlink()
            record(store, candidate, evaluation, [4])
        with store.together():
            record(store, candidate, evaluation, [5])
    assert len(contents(folder)[1]) == 5  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["mv", "cp", "truncate"])
def test_another_file_in_its_place_stays_and_the_run_is_saved_beside_it(
    how: str, folder: Path, candidate: Any, evaluation: Any, tmp_path: Path
) -> None:
    path, older = Store.path(folder), tmp_path / "older"
    shutil.copyfile(path, older)
    with pytest.raises(StoreError) as raised, Store.open(folder) as store:
        record(store, candidate, evaluation, range(3, 40))
        expected = store.candidates(), store.events()
        if how == "mv":
            shutil.copyfile(path, tmp_path / "other")
            (tmp_path / "other").replace(path)
        elif how == "cp":
            with closing(sqlite3.connect(older)) as base:  # an older one, and another page size
                base.execute("PRAGMA page_size = 1024")
                base.execute("VACUUM")
            shutil.copyfile(older, path)
        else:
            path.write_bytes(b"")
        kept = path.read_bytes()
        store.record_ask(candidate(40), 99.0)
    what = "replaced by another file" if how == "mv" else "overwritten"
    saved = folder / "run.sqlite.saved"
    assert str(raised.value) == (
        f"{path}: was {what} while the run wrote to it. All that was recorded is in {saved}. Put "
        "it in that place to resume the run."
    )
    assert path.read_bytes() == kept
    assert {file.name for file in folder.glob("run.sqlite*")} == {path.name, saved.name}
    saved.replace(path)
    assert contents(folder)[1:3] == expected


def test_an_older_copy_of_it_is_noticed_where_there_is_no_log(
    folder: Path, candidate: Any, evaluation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_network(monkeypatch)
    shutil.copyfile(Store.path(folder), tmp_path / "older")
    with pytest.raises(StoreError, match="was overwritten while"), Store.open(folder) as store:
        record(store, candidate, evaluation, range(3, 6))
        shutil.copyfile(tmp_path / "older", Store.path(folder))
        store.record_ask(candidate(6), 9.0)


def test_what_cannot_be_written_there_is_saved_elsewhere(
    folder: Path,
    candidate: Any,
    evaluation: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(StoreError) as raised, Store.open(folder) as store:
        record(store, candidate, evaluation, [3])
        shutil.rmtree(folder)
        folder.write_text("a file in the place of the folder")
        store.record_ask(candidate(4), 9.0)
    saved = tmp_path / f"evomerge-{os.getpid()}" / "run.sqlite"
    assert f"All that was recorded is in {saved}." in str(raised.value)
    assert len(contents(saved.parent)[1]) == 4  # type: ignore[arg-type]


def test_whoever_reads_moves_the_log_or_compacts_the_file_is_no_fault(
    folder: Path, candidate: Any, evaluation: Any
) -> None:
    with Store.open(folder) as store:
        record(store, candidate, evaluation, [3])
        with closing(sqlite3.connect(Store.path(folder))) as other:
            other.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
            record(store, candidate, evaluation, [4])
            other.execute("VACUUM")
            record(store, candidate, evaluation, [5])
        contents(folder)
        os.utime(Store.path(folder))
        record(store, candidate, evaluation, [6])
    assert differences(folder) == []
    assert len(contents(folder)[1]) == 7  # type: ignore[arg-type]
