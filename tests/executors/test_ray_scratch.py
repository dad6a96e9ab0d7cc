"""What is left of runs that were killed, and what belongs to runs that live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.errors import InputError, SearchError
from evomerge.executors._ray_cluster import Cluster
from evomerge.executors._ray_scratch import Scratch, keep_token_private

OWNER = """
import os, subprocess, time
from evomerge.executors._ray_scratch import Scratch
scratch = Scratch()
with scratch.marked():
    child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
print(child.pid, scratch.folder, flush=True)
time.sleep(600)
"""


class Owner:
    """A process with a folder, and a child that outlives it."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", OWNER]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        child, folder = self.process.stdout.readline().split()
        self.child, self.folder = int(child), Path(folder)

    @property
    def child_lives(self) -> bool:
        try:
            return "(sleep) Z" not in Path(f"/proc/{self.child}/stat").read_text()
        except OSError:
            return False

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def owner() -> Iterator[Owner]:
    made = Owner()
    yield made
    made.kill()
    if made.child_lives:
        os.kill(made.child, signal.SIGKILL)
    if made.folder.exists():
        made.folder.rmdir()


def test_the_next_run_ends_what_a_killed_one_left_and_leaves_others_alone(owner: Owner) -> None:
    Scratch().remove()
    assert owner.child_lives
    assert owner.folder.exists()
    owner.kill()
    assert owner.child_lives
    made = Scratch()
    assert not owner.folder.exists()
    deadline = time.monotonic() + 60  # a signal takes a moment
    while owner.child_lives and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not owner.child_lives
    made.remove()
    assert not made.folder.exists()


def test_a_machine_too_slow_for_ray_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def too_slow(**options: object) -> None:
        raise Exception("The current node timed out during startup.")  # Ray's own class and words

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", too_slow)
    before = {*Path(tempfile.gettempdir()).glob(f"evomerge-ray-{os.getpid()}-*")}
    cluster = Cluster("local", {})
    with pytest.raises(SearchError, match=r"does not start on .* timed out .* resume the run"):
        cluster.join(1)
    cluster.leave()
    assert {*Path(tempfile.gettempdir()).glob(f"evomerge-ray-{os.getpid()}-*")} == before
    assert "EVOMERGE_RAY_FOLDER" not in os.environ


def test_no_cluster_at_an_address_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    cluster = Cluster("127.0.0.1:1", {})
    with pytest.raises(InputError, match=r"address: 127\.0\.0\.1:1: no Ray cluster answers there"):
        cluster.join(1)
    cluster.leave()


@pytest.mark.parametrize("there", [None, "of the user"])
def test_the_token_of_ray_is_for_its_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    token = tmp_path / ".ray" / "auth_token"
    if there is not None:
        token.parent.mkdir()
        token.write_text(there)
        token.chmod(0o644)
    keep_token_private()
    made = token.read_text()
    assert made == there or (there is None and len(made) == 64)
    assert token.stat().st_mode & 0o777 == 0o600
    keep_token_private()
    assert token.read_text() == made
    assert list(token.parent.iterdir()) == [token]


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"])
def test_no_token_is_made_where_ray_would_make_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, "disabled")
    keep_token_private()
    assert list(tmp_path.iterdir()) == []
