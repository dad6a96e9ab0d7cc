"""Threads that carry out tensor work, each alone on its core.

An operation that torch splits over threads may add up in another order with another number of
them. A lane never splits one; more lanes take more tensors at a time instead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def lanes(count: int) -> ThreadPoolExecutor:
    """``count`` lanes, started on first use."""
    with _lock:
        if count not in _pools:
            _pools[count] = _start(count)
        return _pools[count]


def _start(count: int) -> ThreadPoolExecutor:
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, thread_name_prefix="evomerge-lane", initializer=_stay_alone)
    barrier = threading.Barrier(count + 1)  # or the first thread would do all the tasks
    for _ in range(count):
        pool.submit(barrier.wait)
    barrier.wait()
    torch.set_num_threads(threads)  # a lane's setting is also that of threads to come
    return pool


def _stay_alone() -> None:
    # torch sets a new thread's number when it is first asked for it, over what was set before
    torch.get_num_threads()
    torch.set_num_threads(1)


def in_lane(work: Callable[[], T]) -> T:
    """The result of ``work``, done in a lane; at once if this thread is as good as one."""
    if torch.get_num_threads() == 1:
        return work()
    return lanes(1).submit(work).result()
