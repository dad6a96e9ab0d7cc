"""The sentences about the best recipe."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from evomerge.analysis.choice import Choice, Difference
from evomerge.reports.choice import chosen

AVERAGE = {"over": "baseline", "baseline": 3, "label": "uniform average"}


def difference(value: float, half_width: float | None, **keys: Any) -> Difference:
    given: dict[str, Any] = {"over": "source", "baseline": 1, "label": "source: math", **keys}
    better = None if half_width is None else value > half_width
    return Difference(value=value, half_width=half_width, better=better, **given)


def said(
    *differences: Difference,
    among: int = 4,
    optimism: float | None = 0.0123,
    split: Literal["search", "held_out"] = "held_out",
) -> list[str]:
    return chosen(Choice(among=among, optimism=optimism, split=split, differences=differences))


@pytest.mark.parametrize(
    ("among", "optimism", "sentence"),
    [
        (
            1320,
            0.0123,
            "The best of 1,320 that were asked everything: its search score may be 0.012 too high "
            "by that choice.",
        ),
        (
            2,
            None,
            "The best of 2 that were asked everything: its search score may be too high by that "
            "choice.",
        ),
        (
            1,
            0.0,
            "Nothing else was asked everything: its search score is not the best of several.",
        ),
        (
            1,
            None,
            "Nothing else was asked everything, but it is the best of several starts: its search "
            "score may be too high by that choice.",
        ),
    ],
)
def test_it_says_among_how_many_the_best_was_chosen(
    among: int, optimism: float | None, sentence: str
) -> None:
    assert said(among=among, optimism=optimism) == [sentence]


def test_it_says_how_far_the_best_is_above_what_was_there() -> None:
    *_, sentence = said(difference(0.093, 0.021), difference(0.138, 0.024, **AVERAGE))
    assert sentence == (
        "On held-out examples it is 0.093 ± 0.021 above the best source (math), "
        "and 0.138 ± 0.024 above the best baseline (uniform average)."
    )


def test_it_says_plainly_what_is_not_shown() -> None:
    *_, sentence = said(difference(0.01, 0.021), difference(-0.02, 0.03, **AVERAGE), split="search")
    assert sentence == (
        "On search examples it is 0.010 ± 0.021 above the best source (math), not shown to be "
        "better, and 0.020 ± 0.030 below the best baseline (uniform average), not shown to be "
        "better."
    )


def test_a_source_that_is_the_best_baseline_is_named_once() -> None:
    *_, sentence = said(difference(0.1, 0.02), difference(0.1, 0.02, over="baseline"))
    assert sentence == (
        "On held-out examples it is 0.100 ± 0.020 above the best baseline (source: math)."
    )


def test_a_difference_without_an_interval_says_so() -> None:
    *_, sentence = said(difference(0.1, None))
    assert sentence == (
        "On held-out examples it is 0.100 above the best baseline (source: math), of which no "
        "interval is known."
    )
