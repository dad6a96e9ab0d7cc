"""What is compared: the paper's methods, each as options of a space and an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FROM_SCRATCH = {"mutation": 0.01}
# no competition for examples, and parents that are drawn by their number of solved ones
GENETIC = {"competition": False, "attraction": False}
# of the published code: even and odd digits, parents by their accuracy
GRID = {"cells": 10, "descriptors": ["even", "odd"], "parents": "score"}


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        optimizer: ``m2n2`` or ``map_elites``; ``cmaes`` on the weights; ``brute force`` over one
            mixing ratio.
        options: of the optimizer.
        pretrained: whether it starts from pretrained models rather than from noise.
        interpolation: of the space.
        runs: seeds, from 42 on, as in the published code.
        published: mean and standard error of the test accuracy in % by evaluations, of the
            published code or, where there is no error, read off the paper's figure.
        published_runs: from how many seeds.
    """

    name: str
    optimizer: Literal["m2n2", "map_elites", "cmaes", "brute force"]
    published: Mapping[int, tuple[float, float | None]]
    options: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    interpolation: Literal["lerp", "slerp"] = "slerp"
    runs: int = 10
    published_runs: int = 3

    @property
    def crossing(self) -> dict[str, Any]:
        """Options of the space: as in the published code, one angle per pair of parents."""
        angle = {"angle": "chromosome"} if self.interpolation == "slerp" else {}
        return {"interpolation": self.interpolation, **angle}

    @property
    def slug(self) -> str:
        """The name as a file's."""
        return self.name.lower().replace(" ", "_").replace(",", "").replace("-", "_")


METHODS = (
    Method(
        "M2N2, from scratch",
        "m2n2",
        {
            500: (27.3, 2.0),
            1000: (34.3, 1.6),
            2000: (45.3, 2.6),
            5000: (69.7, 3.9),
            10000: (82.5, None),
        },
        FROM_SCRATCH,
        published_runs=10,
    ),
    Method(
        "without split point",
        "m2n2",
        {
            500: (35.7, 4.4),
            1000: (42.5, 5.1),
            2000: (49.2, 5.9),
            5000: (66.0, 4.4),
            10000: (70.9, 5.7),
        },
        {**FROM_SCRATCH, "split_point": False},
    ),
    Method(
        "without attraction",
        "m2n2",
        {
            500: (28.1, 3.2),
            1000: (35.4, 1.7),
            2000: (48.1, 3.4),
            5000: (66.0, 6.5),
            10000: (80.4, 1.6),
        },
        {**FROM_SCRATCH, "attraction": False},
    ),
    Method(
        "without crossover",
        "m2n2",
        {
            500: (31.9, 2.1),
            1000: (36.9, 0.9),
            2000: (41.4, 0.5),
            5000: (48.1, 1.3),
            10000: (62.6, 2.1),
        },
        {**FROM_SCRATCH, "crossover": False},
        runs=20,
    ),
    Method(
        "GA",
        "m2n2",
        {
            500: (33.8, 4.9),
            1000: (43.5, 2.5),
            2000: (53.1, 0.2),
            5000: (59.4, 4.2),
            10000: (64.5, 5.0),
        },
        {**FROM_SCRATCH, **GENETIC},
    ),
    Method(
        "MAP-Elites",
        "map_elites",
        {
            500: (29.7, 2.7),
            1000: (35.1, 2.2),
            2000: (39.3, 4.0),
            5000: (51.7, 2.8),
            10000: (55.6, 0.5),
        },
        {**FROM_SCRATCH, **GRID},
        runs=20,
    ),
    Method(
        "CMA-ES on the weights",
        "cmaes",
        {2000: (54.3, 2.9), 5000: (68.7, 1.7), 10000: (77.0, 2.9)},
        published_runs=6,
    ),
    Method(
        "M2N2, pretrained",
        "m2n2",
        {
            500: (63.3, 1.4),
            1000: (64.9, 0.4),
            2000: (67.0, 0.9),
            5000: (67.9, 0.9),
            10000: (69.3, 0.2),
        },
        pretrained=True,
    ),
    Method(
        "M2N2 with LERP, pretrained",
        "m2n2",
        {
            500: (63.1, 1.3),
            1000: (65.5, 0.8),
            2000: (68.9, 1.1),
            5000: (70.1, 1.1),
            10000: (70.5, 0.8),
        },
        pretrained=True,
        interpolation="lerp",
        runs=20,
    ),
    Method(
        "M2N2 without split point, pretrained",
        "m2n2",
        {
            500: (57.6, 0.2),
            1000: (57.8, None),
            2000: (57.8, None),
            5000: (57.8, None),
            10000: (57.8, None),
        },
        {"split_point": False},
        pretrained=True,
    ),
    Method(
        "GA, pretrained",
        "m2n2",
        {
            500: (51.9, 3.6),
            1000: (52.1, None),
            2000: (52.1, None),
            5000: (51.9, None),
            10000: (52.1, None),
        },
        GENETIC,
        pretrained=True,
    ),
    Method("brute force, pretrained", "brute force", {500: (57.8, None)}, pretrained=True, runs=1),
)
