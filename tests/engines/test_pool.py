"""What candidates share, and how long it is kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge import operators
from evomerge.engines._stacks import TensorPool, identities
from evomerge.errors import CandidateError, PlanError
from evomerge.plugins import registry
from evomerge.recipes import Recipe
from evomerge.weights.library import Library
from evomerge.weights.merge import merge
from evomerge.weights.plan import Plan, make_plan
from evomerge.weights.segments import layout_of

Tiny = Callable[..., Path]
SHORT = (0, 1, 2)
REPEATED = (0, 1, 1, 0, 1, 2)
# Those that need recorded statistics, or segments of one stack, cannot be planned from nothing.
PLANNED = [
    name
    for name in registry.names("operators")
    if operators.get(name).statistics is None and name != "segments"
]


class Bench:
    """Plans stacks of the same models."""

    def __init__(self, tiny: Tiny) -> None:
        self.base, self.sources = str(tiny()), {"a": str(tiny(1)), "b": str(tiny(2))}
        self._library = Library()

    def plan(self, blocks: Sequence[int], operator: str = "passthrough", **keys: Any) -> Plan:
        names = ("a",) if operators.get(operator).sources == 1 else ("a", "b")
        ranges = [{n: [block, block + 1] for n in ("base", *names)} for block in blocks]
        recipe = Recipe.model_validate(
            {
                **{"base": self.base, "sources": {n: self.sources[n] for n in names}},
                **{"operator": operator, "dtype": "float32", "experimental": True},
                **{"slices": ranges, **keys},
            }
        )
        return self._library.plan(recipe)


@pytest.fixture
def bench(tiny: Tiny) -> Bench:
    return Bench(tiny)


@pytest.mark.parametrize("name", PLANNED)
def test_what_has_the_same_identity_is_the_same_to_the_bit(bench: Bench, name: str) -> None:
    seen: dict[Hashable, Tensor] = {}
    settings = [dict(operators.get(name).paper_defaults)]
    if "scope" in operators.get(name).shared:
        settings.append(settings[0] | {"scope": "global"})
    if operators.get(name).on == "task_vectors" and not operators.get(name).random:
        settings.append(settings[0] | {"lines_beta": 0.5})
    for parameters in settings:
        for blocks in (SHORT, REPEATED):
            plan = bench.plan(blocks, name, parameters=parameters)
            known = identities(plan)
            for tensor, value in merge(plan):
                assert torch.equal(seen.setdefault(known[tensor], value), value)


def identities_of_blocks(plan: Plan) -> list[Hashable]:
    known = identities(plan)
    return [known[f"model.layers.{n}.mlp.up_proj.weight"] for n in range(plan.models.layers)]


@pytest.mark.parametrize("name", ["passthrough", "linear", "ties", "slerp"])
def test_a_block_is_the_same_wherever_it_stands(bench: Bench, name: str) -> None:
    zero, one, two = identities_of_blocks(bench.plan(SHORT, name))
    assert identities_of_blocks(bench.plan(REPEATED, name)) == [zero, one, one, zero, one, two]


def test_random_numbers_make_another_block_of_every_place(bench: Bench) -> None:
    found = identities_of_blocks(bench.plan(REPEATED, "dare_linear", parameters={"density": 0.5}))
    assert len(set(found)) == len(REPEATED)


def test_another_seed_dtype_or_setting_is_another_block(bench: Bench) -> None:
    plans = [
        bench.plan(SHORT, "linear"),
        bench.plan(SHORT, "linear", seed=1),
        bench.plan(SHORT, "linear", dtype="bfloat16"),
        bench.plan(SHORT, "linear", parameters={"weight": {"a": 0.25, "b": 0.75}}),
        bench.plan(SHORT, "ties"),
    ]
    assert len({identity for plan in plans for identity in identities_of_blocks(plan)}) == 15


def test_another_lineage_is_another_block(bench: Bench) -> None:
    keys = {"base": bench.base, "sources": bench.sources, "dtype": "float32"}
    models = Library().open(bench.base, bench.sources)
    size = layout_of(models, (("rest",),)).size
    found = []
    for weights in ([0.5, 0.5], [0.25, 0.75]):
        step = {"number": 3, "parents": ["a", "b"], "ends": [size], "weights": [weights]}
        recipe = Recipe.model_validate(
            {**keys, "operator": "segments", "lineage": {"steps": [step]}}
        )
        found.append(make_plan(recipe, models))
    pool = TensorPool(found[0].nbytes, torch.device("cpu"))
    for plan in found:
        held = fill(pool, plan)
        assert all(torch.equal(held[name], value) for name, value in merge(plan))


def like(plan: Plan) -> dict[str, Tensor]:
    return {s.slot.name: torch.empty(s.slot.shape, device="meta") for s in plan.steps}


def fill(pool: TensorPool, plan: Plan) -> dict[str, Tensor]:
    return pool.tensors(plan, like(plan))


def distinct(tensors: dict[str, Tensor]) -> set[int]:
    return {tensor.data_ptr() for tensor in tensors.values()}


@pytest.mark.parametrize("operator", ["passthrough", "linear"])
def test_what_was_evaluated_before_does_not_decide_whether_a_candidate_fails(
    bench: Bench, operator: str
) -> None:
    pool = TensorPool(10**9, torch.device("cpu"))
    key = operators.get(operator).factor
    for mlp in (1, 0):  # of the second only the part that is 0 is merged
        plan = bench.plan(SHORT, operator, parameters={key: {"mlp": mlp, "other": 1}})
        held = fill(pool, plan)
        assert all(torch.equal(held[name], value) for name, value in merge(plan))
    with pytest.raises(PlanError, match=f"{operator} gives a model of zeros"):
        bench.plan(SHORT, operator, parameters={key: 0})


def test_a_block_that_occurs_thrice_takes_memory_once(bench: Bench) -> None:
    pool = TensorPool(0, torch.device("cpu"))
    plan = bench.plan(REPEATED)
    found = fill(pool, plan)
    assert len(distinct(found)) == len(bench.plan(SHORT).steps)
    assert pool.nbytes == bench.plan(SHORT).nbytes
    for name, value in merge(plan):
        assert torch.equal(found[name], value)


def test_a_block_that_is_held_in_two_dtypes_takes_memory_twice(bench: Bench) -> None:
    pool = TensorPool(0, torch.device("cpu"))
    plan = bench.plan(REPEATED)
    other = "model.layers.3.mlp.up_proj.weight"  # the same block as the first
    mixed = like(plan) | {other: like(plan)[other].to(torch.float64)}
    found = pool.tensors(plan, mixed)
    assert {name: t.dtype for name, t in found.items()} == {n: t.dtype for n, t in mixed.items()}
    assert len(distinct(found)) == len(bench.plan(SHORT).steps) + 1
    for name, value in merge(plan):
        assert torch.equal(found[name].to(value.dtype), value)


def test_what_was_merged_is_not_merged_again_while_there_is_room(bench: Bench) -> None:
    pool = TensorPool(bench.plan(SHORT).nbytes, torch.device("cpu"))
    first = fill(pool, bench.plan(SHORT))
    first["model.norm.weight"].fill_(7.0)  # a mark that a merge would remove
    fill(pool, bench.plan((0, 0, 2)))
    again = fill(pool, bench.plan(REPEATED))
    assert distinct(again) == distinct(first)
    assert again["model.norm.weight"].eq(7.0).all()


def test_the_pool_keeps_to_its_limit_and_lets_the_oldest_go(bench: Bench) -> None:
    limit = bench.plan(SHORT).nbytes
    pool = TensorPool(limit, torch.device("cpu"))
    for weight in (0.1, 0.2, 0.3):
        fill(pool, bench.plan(SHORT, "linear", parameters={"weight": {"a": weight, "b": 1.0}}))
        assert pool.nbytes == limit
    one = bench.plan((0, 0, 2))
    kept = fill(pool, one)
    for block in (0, 2):
        fill(pool, bench.plan((block, block, block)))
    assert distinct(fill(pool, one)) == distinct(kept)


def test_scaled_weights_go_before_those_that_other_paths_have_too(bench: Bench) -> None:
    short = bench.plan(SHORT)
    scaled = [bench.plan(SHORT, scales=[scale, 1.0, 1.0]) for scale in (0.5, 0.6, 0.7)]
    of_one = sum(step.nbytes for step in scaled[0].steps if step.is_folded)
    pool = TensorPool(short.nbytes + of_one, torch.device("cpu"))
    for tensor in fill(pool, short).values():
        tensor.fill_(7.0)  # a mark that a merge would remove
    for plan in scaled:
        fill(pool, plan)
    assert all(tensor.eq(7.0).all() for tensor in fill(pool, short).values())


def test_what_does_not_fit_is_merged_into_the_memory_of_what_goes(bench: Bench) -> None:
    pool = TensorPool(0, torch.device("cpu"))
    before = distinct(fill(pool, bench.plan(SHORT, "linear", seed=1)))
    assert distinct(fill(pool, bench.plan(SHORT, "linear", seed=2))) == before


def test_a_merge_that_fails_leaves_nothing_behind(bench: Bench) -> None:
    pool = TensorPool(0, torch.device("cpu"))
    overflow = {"weight": 1e30, "normalize": False}
    bad = bench.plan(SHORT, "linear", dtype="float16", parameters=overflow)
    for _ in range(2):
        with pytest.raises(CandidateError):
            fill(pool, bad)
        assert not pool.nbytes


def test_memory_that_was_not_all_there_leaves_nothing_behind(bench: Bench) -> None:
    pool = TensorPool(0, torch.device("cpu"))
    plan = bench.plan(SHORT)
    *most, last = plan.steps
    huge = replace(last, slot=replace(last.slot, shape=(1 << 50,)))
    with pytest.raises(RuntimeError, match="memory"):
        fill(pool, replace(plan, steps=(*most, huge)))
    assert not pool.nbytes
