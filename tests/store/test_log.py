"""The write-ahead log: what lies in the folder meanwhile, and who reads a log that was left."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import StoreError
from evomerge.store import Store, database, file_systems
from evomerge.store.checking import accept, differences
from evomerge.store.log import Syncer
from evomerge.types import PrefixGram


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a disk of this machine, whatever the tests run on."""
    return mounted(tmp_path, "ext4", monkeypatch)


def mounted(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    mounts = folder.parent / f"{folder.name}.mounts"
    mounts.write_text(f"27 1 254:0 / / rw - {kind} /dev/vda rw\n")
    monkeypatch.setattr(file_systems, "MOUNTS", mounts)
    return folder


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if "lock" not in path.name}


def numbers(folder: Path) -> list[int]:
    """What another program sees."""
    with Store.open(folder, read_only=True) as store:
        return [candidate.number for candidate in store.candidates()]


def killed(run_folder: Path, copy: Path) -> Path:
    """The run as a kill would leave it now: a copy of what is in its folder."""
    shutil.copytree(run_folder, copy)
    return copy


def test_a_run_is_one_plain_file_before_and_after_it_is_written_to(
    local: Path, run: Any, candidate: Any
) -> None:
    with Store.create(local, run) as store:
        assert files(local) == {"run.sqlite"}
        store.record_ask(candidate(0), 0.5)
        assert files(local) == {"run.sqlite", "run.sqlite-wal", "run.sqlite-shm"}
        assert numbers(local) == [0]
    assert files(local) == {"run.sqlite"}
    assert Store.path(local).read_bytes()[18:20] == b"\1\1"  # it wants no log of its readers
    assert numbers(local) == [0]


def test_what_was_measured_of_the_sources_is_a_record_like_others(local: Path, run: Any) -> None:
    with Store.create(local, run) as store:
        store.record_grams([PrefixGram("sources", 0, (1.0,))])
        assert "run.sqlite-wal" in files(local)


def test_opening_a_run_to_write_nothing_changes_no_byte(local: Path, run: Any) -> None:
    Store.create(local, run).close()
    before = Store.path(local).read_bytes()
    with Store.open(local) as store:
        assert store.candidates() == []
    assert Store.path(local).read_bytes() == before


def test_a_reader_that_forgets_to_end_hinders_no_record(
    local: Path, run: Any, candidate: Any
) -> None:
    with Store.create(local, run) as store:
        store.record_ask(candidate(0), 0.5)
        with closing(sqlite3.connect(Store.path(local))) as other:
            other.execute("BEGIN")
            assert other.execute("SELECT count(*) FROM candidates").fetchone() == (1,)
            store.record_ask(candidate(1), 1.0)
            with store.together():
                store.record_ask(candidate(2), 1.5)
            assert other.execute("SELECT count(*) FROM candidates").fetchone() == (1,)
            assert numbers(local) == [0, 1, 2]


def test_a_log_that_a_reader_holds_on_to_stays_until_it_ends(
    local: Path, run: Any, candidate: Any
) -> None:
    Store.create(local, run).close()
    with closing(sqlite3.connect(Store.path(local))) as other:
        with Store.open(local) as store:
            store.record_ask(candidate(0), 0.5)
            assert other.execute("SELECT count(*) FROM candidates").fetchone() == (1,)
        assert "run.sqlite-wal" in files(local)
        assert numbers(local) == [0]
    assert files(local) == {"run.sqlite"}
    Store.open(local).close()
    assert Store.path(local).read_bytes()[18:20] == b"\1\1"


@pytest.mark.parametrize("read_only", [True, False])
def test_a_copy_of_a_killed_run_has_all_that_was_recorded(
    local: Path, run: Any, candidate: Any, evaluation: Any, read_only: bool
) -> None:
    with Store.create(local / "run", run) as store:
        store.record_ask(candidate(0), 0.5)
        store.record_tell(0, evaluation(0.25), elapsed_seconds=1.0)
        copy = killed(local / "run", local / "copy")
    with Store.open(copy, read_only=read_only) as store:
        assert store.candidates() == [candidate(0)]
        assert store.evaluation(candidate(0).recipe.digest) == evaluation(0.25)
    assert files(copy) == {"run.sqlite"}


def test_a_power_cut_takes_the_newest_records_back_and_no_others(
    local: Path, run: Any, candidate: Any
) -> None:
    """Of an appended file that was not synced, any beginning may be what is left."""
    with Store.create(local / "run", run) as store:
        for number in range(10):
            store.record_ask(candidate(number), float(number))
        left = killed(local / "run", local / "left")
    log = (left / "run.sqlite-wal").read_bytes()
    database = Store.path(left).read_bytes()
    found = []
    for part in range(40):
        (left / "run.sqlite-shm").unlink(missing_ok=True)
        Store.path(left).write_bytes(database)
        (left / "run.sqlite-wal").write_bytes(log[: len(log) * part // 39])
        found.append(numbers(left))
        with closing(sqlite3.connect(Store.path(left))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert all(kept == list(range(len(kept))) for kept in found)
    assert found == sorted(found)
    assert found[0] == []
    assert found[-1] == list(range(10))


@pytest.mark.parametrize("read_only", [True, False])
def test_a_log_that_the_disk_has_damaged_is_no_shorter_log(
    local: Path, run: Any, candidate: Any, read_only: bool
) -> None:
    with Store.create(local / "run", run) as store:
        for number in range(10):
            store.record_ask(candidate(number), float(number))
        left = killed(local / "run", local / "left")
    log, database = left / "run.sqlite-wal", Store.path(left)
    (left / "run.sqlite-shm").unlink()
    whole, before = log.read_bytes(), database.read_bytes()
    places = [0, 9, 20, *range(40, len(whole), len(whole) // 12)]
    for place in places:
        log.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(StoreError, match=r"run.sqlite-wal: is damaged, its last \d+ records"):
            Store.open(left, read_only=read_only)
        assert database.read_bytes() == before  # nothing was folded
    log.write_bytes(whole[:-5000] + bytes([whole[-5000] ^ 4]) + whole[-4999:])
    accept(left)
    assert differences(left) == []
    assert numbers(left) == list(range(9))


@contextmanager
def nobody_may_write(folder: Path) -> Iterator[None]:
    """For this process too, which may be root's."""
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


@pytest.mark.parametrize("kind", ["ext4", "nfs4"])
@pytest.mark.parametrize("lost", [[], ["run.sqlite-shm"]])
def test_a_killed_run_is_read_where_one_may_not_write(
    kind: str,
    lost: list[str],
    local: Path,
    run: Any,
    candidate: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Store.create(local, run) as store, tempfile.TemporaryDirectory() as outside:
        store.record_ask(candidate(0), 0.5)
        Path(outside).chmod(0o755)  # pytest's own folders are closed to other users
        copy = killed(local, Path(outside) / "copy")
        mounted(copy, kind, monkeypatch)
        for name in lost:
            (copy / name).unlink()
        before = {path: path.read_bytes() for path in copy.iterdir()}
        with nobody_may_write(copy):
            assert numbers(copy) == [0]
        assert {path: path.read_bytes() for path in copy.iterdir()} == before


def test_a_run_that_is_resumed_while_it_is_copied_is_read_whole(
    local: Path, run: Any, candidate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, copyfile = os.geteuid(), shutil.copyfile

    def resumed(source: Path, target: Path) -> None:
        copyfile(source, target)
        monkeypatch.setattr(shutil, "copyfile", copyfile)
        reader = os.geteuid()
        os.seteuid(user)
        copy.chmod(0o755)
        with Store.open(copy) as writer:
            writer.record_ask(candidate(1), 1.0)
        copy.chmod(0o555)
        os.seteuid(reader)

    with Store.create(local, run) as store, tempfile.TemporaryDirectory() as outside:
        store.record_ask(candidate(0), 0.5)
        Path(outside).chmod(0o755)
        copy = killed(local, Path(outside) / "copy")
        (copy / "run.sqlite-shm").unlink()
        monkeypatch.setattr(shutil, "copyfile", resumed)
        with nobody_may_write(copy):
            assert numbers(copy) == [0, 1]


def synchronous(store: Store) -> int:
    """How SQLite waits for the disk: 2 at every commit, 1 beside a log, 0 never."""
    with store._engine.connect() as connection:
        return int(connection.exec_driver_sql("PRAGMA synchronous").scalar() or 0)


@pytest.mark.parametrize(("kind", "expected"), [("ext4", (2, 1)), ("nfs4", (2, 2))])
def test_commits_wait_for_the_disk_unless_a_log_is_synced_beside_them(
    kind: str,
    expected: tuple[int, int],
    tmp_path: Path,
    run: Any,
    candidate: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Store.create(mounted(tmp_path, kind, monkeypatch), run) as store:
        before = synchronous(store)
        store.record_ask(candidate(0), 0.5)
        assert (before, synchronous(store)) == expected


def test_a_file_that_cannot_be_opened_is_let_go_at_once(
    local: Path, run: Any, candidate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.create(local, run) as store:
        store.record_ask(candidate(0), 0.5)
        copy = killed(local, local / "copy")

    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        raise sqlite3.OperationalError("disk I/O error")

    mounted(copy, "nfs4", monkeypatch)
    with monkeypatch.context() as failing:
        failing.setattr(database, "_without_log", broken)
        with pytest.raises(StoreError, match="disk I/O error") as kept:
            numbers(copy)
    assert numbers(copy) == [0]
    assert kept.tb is not None  # whose frames held the connection


def test_on_a_network_file_system_there_is_no_log(
    tmp_path: Path, run: Any, candidate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mounted(tmp_path / "run", "nfs4", monkeypatch)
    with Store.create(folder, run) as store:
        store.record_ask(candidate(0), 0.5)
        with store.together():
            store.record_ask(candidate(1), 1.0)
            assert files(folder) == {"run.sqlite", "run.sqlite-journal"}
        assert files(folder) == {"run.sqlite"}
        assert numbers(folder) == [0, 1]


@pytest.mark.parametrize("read_only", [True, False])
def test_a_killed_run_that_moves_to_a_network_file_system_gives_its_log_up(
    local: Path, run: Any, candidate: Any, read_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.create(local / "run", run) as store:
        store.record_ask(candidate(0), 0.5)
        copy = killed(local / "run", local / "copy")
    mounted(copy, "nfs4", monkeypatch)
    with Store.open(copy, read_only=read_only) as store:
        assert store.candidates() == [candidate(0)]
        assert "run.sqlite-wal" not in files(copy)
        if not read_only:
            store.record_ask(candidate(1), 1.0)
    assert numbers(copy) == ([0] if read_only else [0, 1])
    assert Store.path(copy).read_bytes()[18:20] == b"\1\1"


def test_a_log_that_a_driver_has_open_is_not_given_up(
    local: Path, run: Any, candidate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when one machine runs on its own disk, and another sees that disk over the network."""
    with Store.create(local, run) as store:
        store.record_ask(candidate(0), 0.5)
        mounted(local, "nfs4", monkeypatch)
        monkeypatch.setattr("evomerge.store.database.BUSY_SECONDS", 0.05)
        with pytest.raises(StoreError, match="is locked"):
            numbers(local)
        store.record_ask(candidate(1), 1.0)


def test_a_record_is_brought_to_the_disk_without_another_call(
    local: Path, run: Any, candidate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = threading.Event()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        if os.path.sameopenfile(descriptor, log):
            synced.set()

    with Store.create(local, run) as store:
        store.record_ask(candidate(0), 0.5)
        log = os.open(local / "run.sqlite-wal", os.O_RDONLY)
        monkeypatch.setattr(os, "fsync", fsync)
        synced.clear()
        store.record_ask(candidate(1), 1.0)
        assert synced.wait(60)
        os.close(log)


def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_disk_that_takes_nothing_is_reported_from_then_on(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite-wal").symlink_to("/proc/self/status")  # no file that can be synced
    syncer = Syncer(Store.path(tmp_path))
    sqlite3.connect(Store.path(tmp_path)).close()
    Store.path(tmp_path).touch()
    syncer.start()

    def fails() -> bool:
        try:
            syncer.wake()
        except OSError:
            return True
        return False

    until(fails)
    assert fails()
    syncer.stop()
    (tmp_path / "run.sqlite-wal").unlink()
    (tmp_path / "run.sqlite-wal").touch()  # a file that can
    with pytest.raises(OSError, match="Invalid argument"):
        syncer.sync()


def test_a_long_log_is_moved_into_the_database_meanwhile(
    local: Path, run: Any, candidate: Any, evaluation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evomerge.store.log.MOVE_BYTES", 2**18)
    with Store.create(local, run) as store:
        small = Store.path(local).stat().st_size
        store.record_ask(candidate(0), 0.5)
        store.record_tell(0, evaluation(0.25, examples=40_000), elapsed_seconds=1.0)
        assert (local / "run.sqlite-wal").stat().st_size > 2**19
        until(lambda: Store.path(local).stat().st_size > small + 2**18)
        shrunk = iter(range(1, 1000))  # once all of it was moved, a record begins it again

        def short() -> bool:
            store.record_ask(candidate(next(shrunk)), 1.5)
            return (local / "run.sqlite-wal").stat().st_size < 2**18

        until(short)
        assert numbers(local) == [candidate.number for candidate in store.candidates()]
