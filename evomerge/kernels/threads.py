"""Threads for tensor work that give the same bits however many of them there are.

Torch may split one operation over several threads, and then adds up in another order. Here every
thread runs torch alone: with more threads, more tensors are merged at a time instead.
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


def pool(threads: int) -> ThreadPoolExecutor:
    """A pool of ``threads`` threads that never split a torch operation, started on first use."""
    with _lock:
        if threads in _pools:
            return _pools[threads]
        before = torch.get_num_threads()
        started = ThreadPoolExecutor(threads, "evomerge-merge", initializer=_stay_alone)
        barrier = threading.Barrier(threads + 1)  # or the first thread would do all the tasks
        for _ in range(threads):
            started.submit(barrier.wait)
        barrier.wait()
        torch.set_num_threads(before)  # the setting of one thread is also that of threads to come
        _pools[threads] = started
        return started


def _stay_alone() -> None:
    # torch sets a new thread's number when it is first asked for it, over what was set before
    torch.get_num_threads()
    torch.set_num_threads(1)


def on_one_thread(work: Callable[[], T]) -> T:
    """The result of ``work``, done by a thread of `pool`; by the caller's if torch has only one."""
    if torch.get_num_threads() == 1:
        return work()
    return pool(1).submit(work).result()
