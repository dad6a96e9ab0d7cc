"""What only looks like a machine's fault is none: a model's answer, a scorer's own mistake."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from evomerge.faults import cure_for_machine, memory_ran_out

Calls = Callable[..., Any]


def called(call: Callable[..., Any], *words: Any) -> Any:
    return call(*words)


@pytest.fixture(scope="module", params=["here", "executor", "pool"])
def calling(request: pytest.FixtureRequest) -> Iterator[Calls]:
    """Calls a function here, or in a worker, which sends an error back with a traceback as text."""
    context = multiprocessing.get_context("fork")
    if request.param == "here":
        yield called
    elif request.param == "executor":
        with ProcessPoolExecutor(1, context) as executor:
            yield lambda *words: executor.submit(called, *words).result()
    else:
        with context.Pool(1) as pool:
            yield lambda *words: pool.apply(called, words)


def refuse(kind: type[Exception], answer: str) -> None:
    raise kind(f"expected a number, got {answer!r}")


def refuse_the_refusal(kind: type[Exception], answer: str) -> None:
    try:
        refuse(kind, answer)
    except kind as error:
        raise RuntimeError("no scores") from error


def graded_by_a_program(kind: type[Exception], answer: str) -> None:
    code = f"raise {kind.__name__}({answer!r})"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    "kind", [ValueError, AssertionError, KeyError, TypeError, ZeroDivisionError]
)
@pytest.mark.parametrize(
    "answer", ["os error 28", "[Errno 5] x", "Connection refused", "Cannot allocate memory"]
)
@pytest.mark.parametrize("scorer", [refuse, refuse_the_refusal])
def test_a_models_answer_in_a_scorers_error_is_no_fault(
    calling: Calls, scorer: Calls, kind: type[Exception], answer: str
) -> None:
    with pytest.raises((kind, RuntimeError)) as raised:
        calling(scorer, kind, answer)
    assert cure_for_machine(raised.value) is None
    assert not memory_ran_out(raised.value)


def test_a_models_answer_in_what_a_program_wrote_is_no_fault() -> None:
    code = "raise ValueError('expected a number, got Connection refused')"
    with pytest.raises(subprocess.CalledProcessError) as raised:
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert cure_for_machine(raised.value) is None


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
        IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)),
        BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)),
        TimeoutError("the model answers too slowly"),
        MemoryError(),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("Caught IndexError in DataLoader worker process 0."),
        ValueError("28 of 30"),
        subprocess.CalledProcessError(1, "grade"),
    ],
    ids=repr,
)
def test_what_a_scorer_may_do_wrong_itself_is_not_the_machines(error: Exception) -> None:
    assert cure_for_machine(error) is None
