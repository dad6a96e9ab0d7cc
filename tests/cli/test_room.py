"""A command that cannot have the address space of its libraries ends before it imports them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from evomerge.cli._room import _Room

LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_AS, ({mebibytes} << 20,) * 2)
from evomerge.cli import main
main()
"""
QUICKSTART = str(Path(__file__).parents[2] / "experiments" / "quickstart" / "search.yaml")


def limited(mebibytes: int, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED.format(mebibytes=mebibytes), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "mebibytes", [300, *(pytest.param(n, marks=pytest.mark.slow) for n in (600, 1000, 1300))]
)
def test_a_command_whose_libraries_have_no_room_says_so_before_it_imports_them(
    mebibytes: int,
) -> None:
    done = limited(mebibytes, "check", QUICKSTART)
    assert done.returncode == 1, done.stderr
    assert "memory ran out, or no thread could be started: a command that imports torch " in (
        done.stderr
    )
    assert f"`ulimit -v` allows {(mebibytes << 20) / 1e9:.1f} GB. Give this process more" in (
        done.stderr
    )
    assert done.stderr.count("\n") == 1


def test_a_command_that_imports_no_large_library_runs_in_little_memory() -> None:
    done = limited(200, "list", "operators")
    assert done.returncode == 0, done.stderr
    assert "dare_ties" in done.stdout


GIB = 1 << 30


def refusal(
    monkeypatch: pytest.MonkeyPatch, name: str, cores: int, limit: int, **variables: str
) -> str:
    """Why a library is not imported on a machine with that many cores; empty where it may be."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    spec = _Room(limit).find_spec(name)
    if spec is None:
        return ""
    assert spec.loader is not None
    with pytest.raises(MemoryError) as raised:
        spec.loader.exec_module(sys)
    return str(raised.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        {"OMP_NUM_THREADS": "1"},
        {"OMP_NUM_THREADS": "2,1", "OPENBLAS_NUM_THREADS": " 4"},
    ],
)
def test_threads_that_the_environment_forbids_take_no_room(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name in ("numpy", "transformers", "lm_eval", "vllm"):
        assert refusal(monkeypatch, name, 128, 8 * GIB, **variables) == ""
        assert refusal(monkeypatch, name, 128, 8 * GIB) or name == "numpy"


@pytest.mark.parametrize(
    ("cores", "variables", "mebibytes"),
    [
        (2, {}, 1700 + 2 * 82 + 2 * 78),
        (128, {}, 1700 + 64 * 82 + 128 * 78),  # OpenBLAS starts 64 at most
        (128, {"OPENBLAS_NUM_THREADS": "1"}, 1700 + 82 + 128 * 78),
        (128, {"OMP_NUM_THREADS": "8"}, 1700 + 8 * 82 + 8 * 78),
        (128, {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "99"}, 1700 + 64 * 82 + 78),
        (2, {"OMP_NUM_THREADS": "16"}, 1700 + 2 * 82 + 2 * 78),
        (2, {"OMP_NUM_THREADS": "0", "OPENBLAS_NUM_THREADS": "few"}, 1700 + 2 * 82 + 2 * 78),
    ],
)
def test_the_room_of_a_library_follows_from_its_threads(
    monkeypatch: pytest.MonkeyPatch, cores: int, variables: dict[str, str], mebibytes: int
) -> None:
    limit = mebibytes << 20
    assert refusal(monkeypatch, "transformers", cores, limit, **variables) == ""
    assert refusal(monkeypatch, "transformers", cores, limit - 1, **variables)


def test_a_refusal_names_the_variables_with_which_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert refusal(monkeypatch, "transformers", 128, 8 * GIB) == (
        "a command that imports transformers takes up to 17.8 GB of address space, of which "
        "`ulimit -v` allows 8.6 GB; set OMP_NUM_THREADS=1, and it takes up to 2.0 GB"
    )
    both = refusal(monkeypatch, "transformers", 128, 3 * GIB, OPENBLAS_NUM_THREADS="32")
    assert both.endswith(
        "; set OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1, and it takes up to 2.0 GB"
    )
    assert refusal(monkeypatch, "transformers", 128, GIB).endswith("`ulimit -v` allows 1.1 GB")


def test_whether_a_library_is_installed_may_be_asked_without_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = _Room(1)
    monkeypatch.setattr(sys, "meta_path", [room, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "lm_eval", raising=False)
    assert find_spec("lm_eval") is not None
    monkeypatch.setattr(sys, "meta_path", [room])  # none finds it
    assert find_spec("lm_eval") is None
