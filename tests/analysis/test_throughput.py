"""Where the time of a run went: seconds on record, and the shares that they make."""

from __future__ import annotations

from pathlib import Path

from evomerge.analysis.throughput import Share, Throughput, throughput
from evomerge.recipes import Recipe
from evomerge.store import RunRecord, Store
from evomerge.types import Candidate, Evaluation, Genome


def so_far(store: Store) -> Throughput:
    reported = sum(event.kind == "tell" for event in store.events())
    return throughput(store.elapsed_seconds(), reported, store.spent())


def candidate(number: int) -> Candidate:
    recipe = Recipe(base="b", sources={"a": "a"}, operator="linear", seed=number, dtype="float32")
    return Candidate(
        number=number, kind="search", genome=Genome({"weight": float(number)}), recipe=recipe
    )


def took(
    worker: str, *, merge: float, generation: float, score: float, tokens: int = 0
) -> Evaluation:
    """Of the seconds that scoring took, generation is a part."""
    return Evaluation(
        "done",
        value=0.5,
        merge_seconds=merge,
        score_seconds=score,
        generation_seconds=generation,
        worker=worker,
        generated_tokens=tokens,
    )


def fields(share: Share) -> tuple[str, int, float, float, float, float]:
    times = (share.merge, share.generation, share.scoring, share.waiting)
    return (share.worker, share.evaluations, *times)


def test_shares_are_fractions_of_the_search_time_and_the_rest_is_waiting(tmp_path: Path) -> None:
    with Store.create(
        tmp_path / "run",
        RunRecord(name="r", search_yaml="", seed=0, fitness_digest="f", settings_digest="s"),
    ) as store:
        for number in range(3):
            store.record_ask(candidate(number), 0.0)
        one = took("one", merge=1, generation=2, score=3)
        store.record_tell(0, one, elapsed_seconds=8.0)
        store.record_tell(1, one, elapsed_seconds=12.0)
        two = took("two", merge=2, generation=3, score=6)
        store.record_tell(2, two, elapsed_seconds=16.0)
        found = so_far(store)
        assert found.candidates_per_hour == 3 / 16 * 3600
        assert [fields(share) for share in found.workers] == [
            ("one", 2, 2 / 16, 4 / 16, 2 / 16, 8 / 16),
            ("two", 1, 2 / 16, 3 / 16, 3 / 16, 8 / 16),
        ]

        # the clock stands while held-out examples are answered: a worker that did more than fits
        # in the search time never waited
        late = took("two", merge=2, generation=5, score=22)
        store.record_evaluation(candidate(0).recipe.digest, "held_out", late)
        found = so_far(store)
        assert found.candidates_per_hour == 3 / 16 * 3600
        assert [fields(share) for share in found.workers] == [
            ("one", 2, 2 / 16, 4 / 16, 2 / 16, 8 / 16),
            ("two", 2, 4 / 32, 8 / 32, 20 / 32, 0.0),
        ]


def test_tokens_are_counted_per_second_in_which_the_engine_answered(tmp_path: Path) -> None:
    with Store.create(
        tmp_path / "run",
        RunRecord(name="r", search_yaml="", seed=0, fitness_digest="f", settings_digest="s"),
    ) as store:
        for number in range(3):
            store.record_ask(candidate(number), 0.0)
        for number, tokens in ((0, 30), (1, 20)):
            one = took("one", merge=1, generation=2, score=3, tokens=tokens)
            store.record_tell(number, one, elapsed_seconds=8.0)
        rates = took("two", merge=1, generation=2, score=3)
        store.record_tell(2, rates, elapsed_seconds=8.0)
        speeds = {share.worker: share.tokens_per_second for share in so_far(store).workers}
        assert speeds == {"one": 50 / 4, "two": None}


def test_before_the_clock_ran_there_is_nothing_to_tell(tmp_path: Path) -> None:
    with Store.create(
        tmp_path / "run",
        RunRecord(name="r", search_yaml="", seed=0, fitness_digest="f", settings_digest="s"),
    ) as store:
        found = so_far(store)
    assert (found.candidates_per_hour, found.workers) == (None, ())
