"""Memory that ran out is known by what torch, the loader of libraries and CPython say of it."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable

import pytest
import torch

from evomerge.faults import memory_ran_out


def _no_threads() -> None:
    try:
        raise RuntimeError("can't start new thread")
    except RuntimeError as error:
        raise ValueError("a pool was not made") from error


def _no_library() -> None:
    text = "libtorch_cpu.so: failed to map segment from shared object"
    raise ImportError(text)


def _too_large() -> None:
    torch.empty(1 << 60)


def _too_large_list() -> None:
    [0] * (1 << 60)


@pytest.mark.parametrize("fault", [_no_threads, _no_library, _too_large, _too_large_list])
def test_memory_that_ran_out_is_known_by_what_is_behind_an_error(
    fault: Callable[[], None],
) -> None:
    with pytest.raises(Exception) as caught:
        fault()
    assert memory_ran_out(caught.value)


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.ENOSPC, "full"), KeyError(1)])
def test_what_is_no_lack_of_memory_is_none(error: Exception) -> None:
    assert not memory_ran_out(error)


def test_an_error_of_c_code_without_a_cause_is_a_lack_of_memory_where_that_is_limited() -> None:
    error = SystemError("error return without exception set")
    assert not memory_ran_out(error)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 50, hard))
    try:
        assert memory_ran_out(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
