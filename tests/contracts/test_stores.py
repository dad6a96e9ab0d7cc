"""What every store promises, whatever database is beneath it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from evomerge.errors import RunError, StoreError
from evomerge.recipes import Recipe
from evomerge.store import Event, RunRecord, Store
from evomerge.types import Candidate, Evaluation, Genome, PrefixGram, TaskScores

RUN = RunRecord(
    name="数学 + 日本語",
    search_yaml="name: 数学 + 日本語\nseed: 7\n",
    seed=2**63 - 1,
    fitness_digest="f" * 64,
    settings_digest="s" * 64,
    versions={"python": "3.11.2", "evomerge": "0.1.0"},
    sources_fingerprints={"math": "ab" * 32, "日本語": "cd" * 32},
    host="node-17",
)
FAILED = Evaluation(status="failed", error="RuntimeError: out of memory", merge_seconds=1.5)
AWKWARD_FLOATS = (
    0.1 + 0.2,
    1 / 3,
    5e-324,
    -1.7976931348623157e308,
    math.nextafter(1.0, 2.0),
    0.0,
    1.0,
    1e16,
)


@dataclass(frozen=True)
class Place:
    """Somewhere that holds one run: how to start it, and how to open it again."""

    create: Callable[[RunRecord], Store]
    open: Callable[..., Store]


def sqlite_file(folder: Path) -> Place:
    run_folder = folder / "run"
    return Place(
        create=lambda run: Store.create(run_folder, run),
        open=lambda **options: Store.open(run_folder, **options),
    )


@pytest.fixture(params=[sqlite_file], ids=lambda place: place.__name__)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    made: Place = request.param(tmp_path)
    return made


def recipe(weight: float) -> Recipe:
    return Recipe(
        base="models/base",
        sources={"math": "models/math", "日本語": "org/ja@v1"},
        operator="linear",
        parameters={"weight": {"日本語": [weight, 0.5], "math": {"mlp": 0.25, "other": weight}}},
        dtype="bfloat16",
    )


def candidate(number: int, *parents: int, weight: float | None = None) -> Candidate:
    weight = float(number) if weight is None else weight
    genome = Genome({"weight": weight, "layers": 3, "normalize": True, "mode": "é"}, parents)
    return Candidate(number=number, kind="search", genome=genome, recipe=recipe(weight))


def evaluation(value: float, *scores: float) -> Evaluation:
    example_scores = scores or (value,)
    doc_ids = tuple(range(3, 3 + len(example_scores)))
    return Evaluation(
        status="done",
        tasks={
            "zulu": TaskScores(value, doc_ids, example_scores),
            "alpha|日本語": TaskScores(-value, (0,), (1.0,)),
        },
        value=value,
        measures={"layers": 12.0, "distance": 0.1},
        merge_seconds=0.1,
        score_seconds=2.7,
        generation_seconds=1.9,
        worker="3 on node-17",
        generated_tokens=1234,
    )


def test_a_run_reads_back_equal(place: Place) -> None:
    with place.create(RUN) as store:
        assert store.run() == RUN
    with place.open(read_only=True) as store:
        assert store.run() == RUN
        assert list(store.run().sources_fingerprints) == ["math", "日本語"]


def test_a_new_run_has_no_history(place: Place) -> None:
    with place.create(RUN) as store:
        assert store.candidates() == []
        assert store.events() == []
        assert store.elapsed_seconds() == 0.0
        assert store.evaluation("0" * 64) is None


def test_a_second_run_in_the_same_place_is_refused(place: Place) -> None:
    place.create(RUN).close()
    with pytest.raises(RunError, match=r"has a run already\. Resume it, or choose another folder"):
        place.create(replace(RUN, name="other"))
    with place.open() as store:
        assert store.run() == RUN


def test_opening_where_there_is_no_run_is_refused(place: Place) -> None:
    for read_only in (True, False):
        with pytest.raises(RunError, match="has no run"):
            place.open(read_only=read_only)
    place.create(RUN).close()


def test_candidates_read_back_equal_and_by_number(place: Place) -> None:
    made = [
        Candidate(
            number=0,
            kind="baseline",
            role="source",
            label="source: 数学 🎉 'quoted'; DROP TABLE",
            genome=Genome({}),
            recipe=recipe(1.0),
        ),
        candidate(1),
        replace(candidate(2, 1, 0), stage="merge"),
        replace(candidate(3, 2, 2), stage="段階"),
        Candidate(
            number=4,
            kind="mean",
            genome=Genome({"weight": 0.1 + 0.2}, (3, 0, 1)),
            recipe=recipe(0.1 + 0.2),
        ),
    ]
    with place.create(RUN) as store:
        for number in (0, 1, 2, 3, 4):
            store.record_ask(made[number], float(number))
    with place.open() as store:
        found = store.candidates()
    assert found == made
    assert [c.recipe.digest for c in found] == [c.recipe.digest for c in made]
    assert list(found[1].genome.genes) == ["weight", "layers", "normalize", "mode"]
    assert [type(gene) for gene in found[1].genome.genes.values()] == [float, int, bool, str]


def test_events_keep_their_order_and_time(place: Place) -> None:
    steps: list[tuple[Literal["ask", "tell"], int]] = [
        *(("ask", 0), ("ask", 1), ("ask", 2), ("tell", 2), ("ask", 3), ("tell", 0), ("tell", 3))
    ]
    with place.create(RUN) as store:
        for step, (kind, number) in enumerate(steps):
            if kind == "ask":
                store.record_ask(candidate(number), step / 3)
            else:
                store.record_tell(number, evaluation(0.5), elapsed_seconds=step / 3)
            assert store.elapsed_seconds() == step / 3
    expected = [Event(kind, number, step / 3) for step, (kind, number) in enumerate(steps)]
    with place.open() as store:
        assert store.events() == expected
        assert store.elapsed_seconds() == expected[-1].elapsed_seconds


@pytest.mark.parametrize("value", AWKWARD_FLOATS)
def test_an_evaluation_reads_back_to_the_last_bit(place: Place, value: float) -> None:
    result = evaluation(value, *AWKWARD_FLOATS, -0.0, math.inf)
    with place.create(RUN) as store:
        store.record_ask(candidate(0), 0.0)
        assert store.record_tell(0, result, elapsed_seconds=1.0) == result
    with place.open(read_only=True) as store:
        found = store.evaluation(candidate(0).recipe.digest)
    assert found == result
    assert found is not None
    assert list(found.tasks) == ["zulu", "alpha|日本語"]
    assert [s.hex() for s in found.tasks["zulu"].example_scores] == [
        s.hex() for s in result.tasks["zulu"].example_scores
    ]


def test_an_example_score_may_be_nan_but_a_value_may_not(place: Place) -> None:
    with place.create(RUN) as store:
        store.record_ask(candidate(0), 0.0)
        for bad in (replace(evaluation(0.5), value=math.nan), evaluation(math.nan)):
            with pytest.raises(StoreError, match="is NaN"):
                store.record_tell(0, bad, elapsed_seconds=1.0)
        assert store.events() == [Event("ask", 0, 0.0)]
        store.record_tell(0, evaluation(0.5, math.nan, -math.inf, 1.0), elapsed_seconds=1.0)
        found = store.evaluation(candidate(0).recipe.digest)
    assert found is not None
    scores = found.tasks["zulu"].example_scores
    assert math.isnan(scores[0]) and scores[1:] == (-math.inf, 1.0)


def test_grams_read_back_to_the_last_bit_and_by_position(place: Place) -> None:
    first = PrefixGram("sources", 1 << 40, (0.1 + 0.2, 5e-324, -1.0, 1e300))
    others = [PrefixGram("sources", 0, (0.0, 0.0)), PrefixGram("others", 7, (1 / 3,))]
    with place.create(RUN) as store:
        assert store.grams() == []
        store.record_grams([first])
        store.record_grams(others)
        with pytest.raises(StoreError, match="UNIQUE"):
            store.record_grams([PrefixGram("sources", 0, (1.0,))])
    with place.open(read_only=True) as store:
        assert store.grams() == [*others, first]


def test_a_failed_evaluation_is_a_result(place: Place) -> None:
    with place.create(RUN) as store:
        store.record_ask(candidate(0), 0.0)
        store.record_tell(0, FAILED, elapsed_seconds=1.0)
        assert store.evaluation(candidate(0).recipe.digest) == FAILED


def test_any_error_text_can_be_recorded(place: Place) -> None:
    text = "日本語 \udcff \0 'quoted' \n last line"
    with place.create(RUN) as store:
        store.record_ask(candidate(0), 0.0)
        store.record_tell(0, replace(FAILED, error=text), elapsed_seconds=1.0)
        found = store.evaluation(candidate(0).recipe.digest)
    assert found is not None
    assert found.error == "日本語 \\udcff \\0 'quoted' \n last line"


def test_an_unvalued_evaluation_reads_back_without_a_value(place: Place) -> None:
    result = replace(evaluation(0.5), value=None, tasks={})
    with place.create(RUN) as store:
        store.record_ask(candidate(0), 0.0)
        store.record_tell(0, result, elapsed_seconds=1.0)
        assert store.evaluation(candidate(0).recipe.digest) == result


def test_candidates_with_the_same_recipe_share_the_first_evaluation(place: Place) -> None:
    with place.create(RUN) as store:
        store.record_ask(candidate(0, weight=0.5), 0.0)
        store.record_ask(candidate(1, weight=0.5), 0.0)
        store.record_tell(1, evaluation(0.75), elapsed_seconds=1.0)
        on_record = store.record_tell(0, evaluation(0.25), elapsed_seconds=2.0)
        assert on_record == evaluation(0.75)
        assert store.evaluation(recipe(0.5).digest) == evaluation(0.75)
        assert [event[:2] for event in store.events()][2:] == [("tell", 1), ("tell", 0)]


def test_held_out_evaluations_stand_beside_those_of_the_search(place: Place) -> None:
    digest = candidate(0).recipe.digest
    with place.create(RUN) as store:
        store.record_ask(candidate(0), 0.0)
        store.record_tell(0, evaluation(0.75), elapsed_seconds=1.0)
        assert store.evaluation(digest, "held_out") is None
        store.record_evaluation(digest, "held_out", evaluation(0.5))
        assert store.record_evaluation(digest, "held_out", FAILED) == evaluation(0.5)
    with place.open(read_only=True) as store:
        assert store.evaluation(digest, "held_out") == evaluation(0.5)
        assert store.evaluation(digest, "search") == evaluation(0.75)
        assert len(store.events()) == 2


def test_a_number_is_asked_once(place: Place) -> None:
    with place.create(RUN) as store:
        store.record_ask(candidate(0), 0.0)
        with pytest.raises(StoreError):
            store.record_ask(candidate(0, weight=0.9), 1.0)
        assert store.candidates() == [candidate(0)]
        assert store.events() == [Event("ask", 0, 0.0)]


def test_a_candidate_is_reported_once(place: Place) -> None:
    with place.create(RUN) as store:
        store.record_ask(candidate(0), 0.0)
        store.record_tell(0, evaluation(0.5), elapsed_seconds=1.0)
        with pytest.raises(StoreError):
            store.record_tell(0, evaluation(0.5), elapsed_seconds=2.0)
        assert store.elapsed_seconds() == 1.0


def test_a_candidate_that_was_never_asked_cannot_be_reported(place: Place) -> None:
    with place.create(RUN) as store:
        with pytest.raises(StoreError, match="candidate 0 was reported but never asked for"):
            store.record_tell(0, evaluation(0.5), elapsed_seconds=1.0)
        with pytest.raises(StoreError):
            store.record_evaluation(recipe(0.5).digest, "held_out", evaluation(0.5))
        assert store.events() == []


def test_a_refused_ask_leaves_nothing_behind(place: Place) -> None:
    with place.create(RUN) as store:
        store.record_ask(candidate(0), 0.0)
        with pytest.raises(StoreError):
            store.record_ask(candidate(1, 0, 99), 1.0)  # 99 is no candidate
        assert store.candidates() == [candidate(0)]
        assert store.events() == [Event("ask", 0, 0.0)]
        store.record_ask(candidate(1, 0), 1.0)
        assert store.candidates() == [candidate(0), candidate(1, 0)]


def test_a_run_is_finished_until_it_goes_on(place: Place) -> None:
    with place.create(RUN) as store:
        store.record_ask(candidate(0), 0.0)
        store.finish()
    with place.open() as store:
        finished = store.run()
        assert finished.finished_utc is not None
        assert finished.finished_utc >= finished.created_utc
        assert replace(finished, finished_utc=None) == RUN
        store.record_ask(candidate(1), 1.0)
        assert store.run() == RUN


def test_a_reader_follows_the_writer_and_cannot_write(place: Place) -> None:
    with place.create(RUN) as writer, place.open(read_only=True) as reader:
        for number in range(3):
            writer.record_ask(candidate(number), float(number))
            assert reader.candidates() == writer.candidates()
        with pytest.raises(StoreError):
            reader.record_ask(candidate(3), 3.0)
        with pytest.raises(StoreError):
            reader.finish()
        writer.record_tell(0, evaluation(0.5), elapsed_seconds=4.0)
        assert reader.evaluation(candidate(0).recipe.digest) == evaluation(0.5)


def test_a_second_writer_is_refused_until_the_first_closes(place: Place) -> None:
    with place.create(RUN) as store:
        with pytest.raises(RunError, match="is in use by process"):
            place.open()
        store.record_ask(candidate(0), 0.0)
    with place.open() as store:
        store.record_ask(candidate(1), 1.0)


def test_closing_twice_is_harmless(place: Place) -> None:
    with place.create(RUN) as store:
        store.close()
    with place.open() as store:
        assert store.run() == RUN


def test_a_long_search_goes_on_where_it_stopped(place: Place) -> None:
    place.create(RUN).close()
    for number in range(5):
        with place.open() as store:
            assert len(store.candidates()) == number
            store.record_ask(candidate(number, *range(max(0, number - 2), number)), number + 0.25)
            store.record_tell(number, evaluation(number / 7), elapsed_seconds=number + 0.5)
    with place.open(read_only=True) as store:
        assert [c.genome.parents for c in store.candidates()] == [(), (0,), (0, 1), (1, 2), (2, 3)]
        assert [event.kind for event in store.events()] == ["ask", "tell"] * 5


def test_portions_add_up_and_the_first_score_of_an_example_counts(place: Place) -> None:
    part = {"zulu": TaskScores(0.5, (3, 7), (0.1 + 0.2, 1.0))}
    more = {"zulu": TaskScores(0.0, (5, 7), (1 / 3, 0.0)), "日本語": TaskScores(1.0, (0,), (1.0,))}
    digest = candidate(0).recipe.digest
    with place.create(RUN) as store:
        store.record_ask(candidate(0), 1.0)
        assert store.cells(digest) == {}
        for tasks, seconds in ((part, 2.0), (more, 4.5)):
            one = Evaluation("done", tasks, merge_seconds=1.0, worker="0 on a", generated_tokens=3)
            store.record_portion(digest, one, elapsed_seconds=seconds)
        store.record_told([0], elapsed_seconds=4.0)
        with pytest.raises(StoreError):
            store.record_told([0], elapsed_seconds=4.0)
    known = {"zulu": {3: 0.1 + 0.2, 5: 1 / 3, 7: 1.0}, "日本語": {0: 1.0}}
    with place.open() as store:
        assert store.cells(digest) == known
        cells = ({"zulu": {3: 0.1 + 0.2, 7: 1.0}}, {"zulu": {5: 1 / 3, 7: 0.0}, "日本語": {0: 1.0}})
        assert [*store.portions()] == [(digest, cells[0], 3, 2.0), (digest, cells[1], 3, 4.5)]
        assert store.evaluation(digest) is None
        assert store.elapsed_seconds() == 4.5
        assert [e.kind for e in store.events()] == ["ask", "tell"]
        (spent,) = store.spent()
        assert (spent.evaluations, spent.merge_seconds, spent.generated_tokens) == (2, 2.0, 6)
        whole = evaluation(0.25)
        store.record_evaluation(digest, "search", whole)
        assert store.evaluation(digest) == whole
        assert store.cells(digest) == known


def test_a_portion_of_no_candidate_is_refused(place: Place) -> None:
    part = Evaluation("done", {"zulu": TaskScores(0.5, (3,), (0.5,))})
    with place.create(RUN) as store, pytest.raises(StoreError):
        store.record_portion("0" * 64, part, elapsed_seconds=1.0)
