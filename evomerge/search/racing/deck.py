"""Which examples each cohort is asked."""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from evomerge.search.racing.settings import Racing
from evomerge.types import Portion


class Hand(NamedTuple):
    """The examples of one cohort.

    Attributes:
        examples: task to all of them, in the order in which they are asked.
        block: task to how many of them are in a block.
    """

    examples: Mapping[str, tuple[int, ...]]
    block: Mapping[str, int]

    def of_rung(self, rung: int) -> Portion:
        """The examples of the first 2^rung blocks, or all of a task that has fewer; ascending."""
        return {
            task: tuple(sorted(ids[: self.block[task] << rung]))
            for task, ids in self.examples.items()
        }


class Deck:
    """Deals every cohort examples of its own, from seeded permutations of each task's examples.

    Over many cohorts every example of a task is dealt equally often, give or take one, and no
    cohort holds one twice. What is dealt depends on the seeds and on what was dealt before alone.

    Args:
        examples: all that the search may ask.
        shares: of the tasks in what is dealt; positive.
        seeds: of the fitness and of the search.
    """

    def __init__(
        self, examples: Portion, shares: Mapping[str, float], seeds: tuple[int, int]
    ) -> None:
        self.examples, self._shares, self._seeds = examples, shares, seeds
        self._epochs = dict.fromkeys(examples, 0)
        self._queues: dict[str, deque[int]] = {task: deque() for task in examples}

    def deal(self, first: int, blocks: int) -> Hand:
        """The examples of a cohort: of a task that has too few, all.

        Args:
            first: how many examples of all tasks make a block.
        """
        block = block_sizes(first, self._shares)
        return Hand({t: self._take(t, block[t] * blocks) for t in self.examples}, block)

    def _take(self, task: str, count: int) -> tuple[int, ...]:
        queue = self._queues[task]
        taken: dict[int, None] = {}
        again = []
        while len(taken) < min(count, len(self.examples[task])):
            if not queue:
                queue.extend(self._shuffled(task))
            example = queue.popleft()
            if example in taken:
                again.append(example)
            else:
                taken[example] = None
        queue.extendleft(reversed(again))
        return tuple(taken)

    def _shuffled(self, task: str) -> list[int]:
        epoch = self._epochs[task]
        self._epochs[task] += 1
        generator = np.random.default_rng([*self._seeds, zlib.crc32(task.encode()), epoch])
        examples = self.examples[task]
        return [examples[place] for place in generator.permutation(len(examples)).tolist()]


def rung_sizes(racing: Racing, shares: Mapping[str, float], there: Mapping[str, int]) -> list[int]:
    """How many examples each rung has, those of the rungs below it included.

    Args:
        shares: of the tasks in what is dealt.
        there: how many examples each task has.
    """
    block = block_sizes(racing.first, shares)
    return [
        sum(min(block[task] << rung, count) for task, count in there.items())
        for rung in range(racing.rungs)
    ]


def deeper(racing: Racing, shares: Mapping[str, float], there: Mapping[str, int]) -> list[Racing]:
    """These rungs, and with more of them until the last one is all examples.

    Args:
        shares, there: as for `rung_sizes`.
    """
    found = [racing]
    while rung_sizes(found[-1], shares, there)[-1] < sum(there.values()):
        found.append(racing.with_rungs(found[-1].rungs + 1))
    return found


def block_sizes(first: int, shares: Mapping[str, float]) -> dict[str, int]:
    """How many examples of each task are in a block of ``first``: in proportion, and at least one.

    Rounded by largest remainders; of equal ones, the earlier task first.

    Raises:
        ValueError: fewer examples than tasks.
    """
    if first < len(shares):
        raise ValueError(f"{first} examples cannot have one of each of {len(shares)} tasks")
    total = math.fsum(shares.values())
    exact = {task: first * share / total for task, share in shares.items()}
    sizes = {task: max(1, math.floor(count)) for task, count in exact.items()}
    remainders = sorted(shares, key=lambda task: sizes[task] - exact[task])  # most wanting first
    while (missing := first - sum(sizes.values())) > 0:
        for task in remainders[:missing]:
            sizes[task] += 1
    while sum(sizes.values()) > first:  # one of each was more than their share
        largest = max(sizes, key=lambda task: (sizes[task] > 1, sizes[task] - exact[task]))
        sizes[largest] -= 1
    return sizes
