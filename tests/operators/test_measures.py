"""What is kept of measurements from candidate to candidate."""

from __future__ import annotations

import torch

from evomerge.operators import Stack
from evomerge.operators._measures import measures


def test_only_the_latest_settings_are_kept() -> None:
    measure = measures(Stack([torch.zeros(3)]))
    calls: list[int] = []

    def find(settings: int) -> int:
        def measured() -> int:
            calls.append(settings)
            return -settings

        found: int = measure.latest("name", settings, measured)
        return found

    assert [find(settings) for settings in (1, 2, 1, 2)] == [-1, -2, -1, -2]
    assert calls == [1, 2]
    for settings in range(3, 20):
        find(settings)
    assert find(1) == -1
    assert calls.count(1) == 2
