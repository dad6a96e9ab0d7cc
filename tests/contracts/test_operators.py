"""Promises that every operator keeps, and the golden vectors of those that have some."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

from evomerge import operators
from evomerge.errors import OperatorError
from evomerge.kernels import ranks
from evomerge.kernels.measures import magnitude, measures
from evomerge.kernels.stack import Stack
from evomerge.plugins import registry

NAMES = registry.names("operators")
GOLDEN = Path(__file__).parents[1] / "golden"
SHAPES = [(5,), (1,), (4, 6), (2, 3, 4)]
BIG = (700, 411)  # more than one tile, and none of them full

# Quantities that are no merge of tensors. The tests of the operators' modules read them, but for
# the last three: what coefficients are learned by, and evomerge only applies them.
ELSEWHERE = {
    "compeft-k0.5_a1", "compeft-k0.2_a3", "consensus_ta-masks", "della-probs_row_rank",
    "ffg-graft_density_half", "lines-factors_L5", "mwa-loss", "mwa-steps", "mwa-softmax",
    "rtsvm-outlier_weights_z1",
    "adamerging-entropy", "expert_merging-losses", "lines-multi_task_alpha",
}  # fmt: skip
COMPOSED = ("composition", "dare_compeft_lines_ties")


def golden_cases() -> list[Any]:
    cases = []
    for path in sorted(GOLDEN.glob("*.json")):
        for case in json.loads(path.read_text()).get("cases", []):
            label = f"{path.stem}-{case['name']}"
            if label not in ELSEWHERE and path.stem not in ("composition", "sparsify"):
                cases.append(pytest.param(path.stem, case, id=label))
    return cases


def merged_golden(name: str, case: Mapping[str, Any]) -> Any:
    inputs, params = dict(case["inputs"]), dict(case["params"])
    keywords = {
        "base": inputs.pop("base", None),
        "uniforms": inputs.pop("u", None),
        "sources": inputs.pop("sources", None) or [inputs.pop("other")],
    }
    return operators.apply(name, **keywords, **inputs, **params)


def compare(found: Any, expected: Any, tolerance: float) -> None:
    if isinstance(expected, Mapping):
        assert found.keys() == expected.keys()
        for key in expected:
            compare(found[key], expected[key], tolerance)
        return
    wanted = torch.tensor(expected, dtype=torch.float64)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "case"), golden_cases())
def test_golden_vector(name: str, case: dict[str, Any]) -> None:
    if "tensors" in case["inputs"]:  # a whole model
        parts = case["inputs"]["tensors"]
        base = {str(i): part["base"] for i, part in enumerate(parts)}
        count = len(parts[0]["sources"])
        sources = [{str(i): p["sources"][k] for i, p in enumerate(parts)} for k in range(count)]
        found = operators.apply(name, base=base, sources=sources, **case["params"])
        for number, expected in enumerate(case["expected"]["merged"]):
            compare(found[str(number)], expected, case["tol"])
        return
    expected = case["expected"]
    if isinstance(expected, Mapping):
        expected = expected["merged"] if "merged" in expected else expected["merged_static"]
    compare(merged_golden(name, case), expected, case["tol"])


def test_golden_composition() -> None:
    (case,) = json.loads((GOLDEN / "composition.json").read_text())["cases"]
    params = dict(case["params"])
    sparsify = {"method": "random", "density": params.pop("density"), "rescale": "inverse"}
    found = operators.apply(
        "ties",
        base=case["inputs"]["base"],
        sources=case["inputs"]["sources"],
        uniforms=case["inputs"]["u"],
        sparsify=sparsify,
        **params,
    )
    compare(found, case["expected"], case["tol"])


@pytest.mark.parametrize("name", ["sparsify", "compeft"])
def test_golden_modifiers(name: str) -> None:
    for case in json.loads((GOLDEN / f"{name}.json").read_text())["cases"]:
        inputs = case["inputs"]
        found = operators.apply(
            name, sources=[inputs["tau"]], uniforms=inputs.get("u"), **case["params"]
        )
        compare(found, case["expected"], case["tol"])


def test_every_golden_file_is_read() -> None:
    stems = {path.stem for path in GOLDEN.glob("*.json")} - {"index", "composition"}
    assert stems <= set(NAMES)
    labels = {
        f"{stem}-{case['name']}"
        for stem in stems
        for case in json.loads((GOLDEN / f"{stem}.json").read_text())["cases"]
    }
    assert labels >= ELSEWHERE


# How to call an operator that is not known in advance.


def tensors(shape: tuple[int, ...], count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def source_count(name: str, wanted: int) -> int:
    found = operators.get(name)
    return 1 if found.on == "pair" else found.sources or wanted


def recorded(name: str, sources: list[Tensor]) -> dict[str, Any]:
    """Statistics that fit the sources, where the operator needs some."""
    kind = operators.get(name).statistics
    if kind is None:
        return {}
    if kind == "grams":
        return {kind: [torch.eye(s.shape[-1]) * (i + 1) for i, s in enumerate(sources)]}
    if kind == "raw":
        return {kind: [torch.tensor([0.5, -0.25, float(i)]) for i in range(len(sources))]}
    return {kind: [source.abs() + 0.1 * (i + 1) for i, source in enumerate(sources)]}


def apply(name: str, base: Tensor, sources: list[Tensor], **parameters: Any) -> Tensor:
    found: Tensor = operators.apply(
        name, base=base, sources=sources, **recorded(name, sources), **parameters
    )
    return found


def neutral(name: str) -> dict[str, Any]:
    """Parameters at which the operator averages: full density, weights that sum to one."""
    found = operators.get(name)
    settings: dict[str, Any] = {}
    if "density" in found.per_source:
        settings["density"] = 1.0
    if "normalize" in found.shared:
        settings["normalize"] = True
    if "epsilon" in found.parameters and "density" in found.per_source:
        settings["epsilon"] = 0.0
    return settings


# They scale what all sources agree on: by K, by a share of the spectrum, by learned factors.
NOT_MEANS = {
    "adamerging": {"coefficient": 1 / 3},
    "breadcrumbs": {"gamma": 0.0},
    "breadcrumbs_ties": {"gamma": 0.0},
    "compeft": None,
    "consensus_ta": {"alpha": 1 / 3, "k": 1},
    "expert_merging": None,
    "iso_c": None,
    "iso_cts": None,
    "lines": None,
    "nearswap": {"t": 100.0},
    "pcb": None,
    "rtsvm": None,
    "sparsify": {"weight": 1 / 3},
    "tsvm": None,
    "varm": {},
    "widen": None,
    "opcm": {"alpha": 0.0},
    "knots_ties": {},
}


@pytest.mark.parametrize("name", [n for n in NAMES if NOT_MEANS.get(n, {}) is not None])
@pytest.mark.parametrize("shape", SHAPES)
def test_identical_sources_return_the_source(name: str, shape: tuple[int, ...]) -> None:
    base, source = tensors(shape, 2)
    if name in ("slerp", "arcee_fusion"):
        base = source
    same = [source] * source_count(name, 3)
    merged = apply(name, base, same, **(neutral(name) | (NOT_MEANS.get(name) or {})))
    torch.testing.assert_close(merged, source, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_sources_equal_to_the_base_return_the_base_bit_for_bit(
    name: str, shape: tuple[int, ...]
) -> None:
    (base,) = tensors(shape, 1)
    found = operators.get(name)
    merged = apply(name, base, [base] * source_count(name, 2))
    if found.on == "task_vectors" or found.shared.get("space") == "task_vector":
        assert torch.equal(merged, base)
    else:
        torch.testing.assert_close(merged, base)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_one_source_works(name: str, shape: tuple[int, ...]) -> None:
    base, source = tensors(shape, 2)
    merged = apply(name, base, [source])
    assert merged.shape == base.shape
    assert merged.isfinite().all()


@pytest.mark.parametrize("name", [n for n in NAMES if not operators.get(n).ordered])
def test_the_order_of_sources_does_not_matter(name: str) -> None:
    count = source_count(name, 3)
    base, *sources = tensors((8, 6), 1 + count)
    found = operators.get(name)
    weights = [0.2, 0.5, 1.1][:count]
    turned = [2, 0, 1] if count == 3 else list(range(count))[::-1]
    uniforms = torch.rand((count, 8, 6), generator=torch.Generator().manual_seed(1))
    statistics = recorded(name, sources)

    def once(order: list[int]) -> Tensor:
        settings: dict[str, Any] = {k: [v[i] for i in order] for k, v in statistics.items()}
        if "weight" in found.per_source:
            settings["weights"] = [weights[i] for i in order]
        merged: Tensor = operators.apply(
            name,
            base=base,
            sources=[sources[i] for i in order],
            uniforms=uniforms[order],
            **settings,
        )
        return merged

    torch.testing.assert_close(once(list(range(count))), once(turned), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_left_alone_and_threads_change_no_bit(name: str) -> None:
    base, *sources = tensors(BIG, 1 + source_count(name, 3))
    before = [t.clone() for t in (base, *sources)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = apply(name, base, sources)
        torch.set_num_threads(2)
        two = apply(name, base, sources)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, two)
    assert all(torch.equal(a, b) for a, b in zip(before, (base, *sources), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_how_a_tensor_is_cut_does_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, *sources = tensors((90, 70), 1 + source_count(name, 3))
    whole = apply(name, base, sources)
    monkeypatch.setattr("evomerge.kernels.stack.TILE", 1000)
    torch.testing.assert_close(apply(name, base, sources), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_low_precision_inputs_are_widened_first(name: str) -> None:
    base, *sources = (t.bfloat16() for t in tensors((8, 6), 1 + source_count(name, 2)))
    wide = [source.float() for source in sources]
    statistics = recorded(name, wide)
    low = operators.apply(name, base=base, sources=sources, **statistics)
    high = operators.apply(name, base=base.float(), sources=wide, **statistics)
    assert torch.equal(low, high)


@pytest.mark.parametrize("name", [n for n in NAMES if operators.get(n).random])
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    base, *sources = tensors((40, 60), 3)
    settings: dict[str, Any] = {"density": 0.5}
    if name == "sparsify":
        settings["method"] = "random"
    draw = [
        operators.apply(name, base=base, sources=sources, seed=s, **settings) for s in (1, 1, 2)
    ]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    for name in NAMES:
        base, *sources = tensors((8, 6), 1 + source_count(name, 2))
        apply(name, base, sources)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", NAMES)
def test_an_input_that_is_not_finite_is_refused(name: str, value: float) -> None:
    base, *sources = tensors((8, 6), 1 + source_count(name, 2))
    statistics = recorded(name, sources)
    sources[-1][3, 3] = value
    with pytest.raises(OperatorError):
        operators.apply(name, base=base, sources=sources, **statistics)


def takes_signed_weights(name: str) -> bool:
    found = operators.get(name)
    on_deltas = found.on == "task_vectors" or found.shared.get("space") == "task_vector"
    bound = found.per_source.get("weight")
    return on_deltas and bound is not None and bound.problem(-1.0) is None


@pytest.mark.parametrize("name", [n for n in NAMES if takes_signed_weights(n)])
def test_a_negative_weight_never_comes_back_as_positive(name: str) -> None:
    base, *sources = tensors((40, 30), 1 + source_count(name, 2))
    settings = neutral(name) | ({"gamma": 0.0} if "gamma" in operators.get(name).shared else {})
    statistics = recorded(name, sources)
    for weight in (-1.0, -0.3):
        merged = operators.apply(
            name, base=base, sources=sources, weight=weight, **settings, **statistics
        )
        delta, taken = merged - base, sum(sources) - len(sources) * base
        assert float((delta * taken).sum()) < 0


@pytest.mark.parametrize("name", ["ties", "dare_ties", "della", "breadcrumbs_ties", "knots_ties"])
def test_equal_sources_of_opposite_weights_cancel(name: str) -> None:
    base, source = tensors((4, 6), 2)
    settings = neutral(name) | ({"gamma": 0.0} if "gamma" in operators.get(name).shared else {})
    both = operators.apply(
        name, base=base, sources=[source, source], weights=[1.0, -1.0], **settings
    )
    torch.testing.assert_close(both, base)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_merged_to_nothing(name: str) -> None:
    empty = torch.zeros((0, 4))
    statistics = recorded(name, [torch.ones(4, 4)] * source_count(name, 2))
    merged = operators.apply(
        name, base=empty, sources=[empty] * source_count(name, 2), **statistics
    )
    assert merged.shape == (0, 4)


@pytest.mark.parametrize("name", [n for n in NAMES if operators.get(n).on == "task_vectors"])
def test_minus_zero_stays_where_nothing_is_added(name: str) -> None:
    base = torch.tensor([[-0.0, 1.0], [2.0, -0.0]])
    merged = apply(name, base, [base] * source_count(name, 2))
    assert torch.equal(merged.view(torch.int32), base.view(torch.int32))


def test_ranks_keep_to_their_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "BUDGET_BYTES", 2_000_000)
    stacks = [Stack(tensors((300, 100), 3, seed)) for seed in range(12)]
    for density in (0.1, 0.3, 0.5):
        for stack in stacks:
            measure = measures(stack)
            measure.cuts(magnitude, [int(density * stack.size)] * 3, "magnitude")
    kept = [value for stack in stacks for value in stack.cache.values()]
    rankings = [value for value in kept if isinstance(value, ranks.Ranking)]
    assert len(rankings) == len(stacks)
    assert sum(ranking.nbytes for ranking in rankings) <= 2_000_000
    again = measures(stacks[0]).cuts(magnitude, [9000] * 3, "magnitude")
    values = stacks[0].whole().abs().flatten(1)
    assert [cut.value for cut in again] == [float(row.topk(9000).values[-1]) for row in values]


@pytest.mark.parametrize("name", NAMES)
def test_paper_defaults_are_valid_and_documented(name: str) -> None:
    found = operators.get(name)
    base, source = tensors((4, 6), 2)
    assert set(found.paper_defaults) <= set(found.parameters)
    assert apply(name, base, [source], **found.paper_defaults).isfinite().all()
    assert found.paper
    assert "Source:" in (found.function.__doc__ or "")


@pytest.mark.parametrize("name", NAMES)
def test_a_listing_knows_all_of_an_operator_but_how_it_merges(name: str) -> None:
    found, whole = operators.outline(name), operators.get(name)
    assert found is not whole
    assert operators.describe(found) == operators.describe(whole)
    assert operators.modifiers(found) == operators.modifiers(whole)
    ours, theirs = (replace(o, function=whole.function, options=BaseModel) for o in (found, whole))
    assert ours == theirs


@pytest.mark.parametrize("name", [n for n in NAMES if "density" in operators.get(n).per_source])
@pytest.mark.parametrize("density", [-0.1, 1.1, float("nan")])
def test_a_density_outside_its_range_is_refused(name: str, density: float) -> None:
    base, source = torch.tensor([[1.0]]), torch.tensor([[2.0]])
    with pytest.raises(OperatorError, match="density: must lie in"):
        apply(name, base, [source], density=density)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_differ_are_refused(name: str) -> None:
    with pytest.raises(OperatorError, match=r"shapes differ: \(1,\), \(2,\)"):
        apply(name, torch.tensor([1.0]), [torch.tensor([1.0, 2.0])])


def test_parameters_of_a_module_are_merged_like_tensors() -> None:
    one, two = (torch.nn.Parameter(torch.full((3, 4), value)) for value in (1.0, 3.0))
    merged = operators.apply("linear", sources=[one, two])
    assert torch.equal(merged, torch.full((3, 4), 2.0))


@pytest.mark.parametrize("name", [n for n in NAMES if operators.get(n).weights not in (None, "t")])
def test_only_the_ratios_of_weights_count_where_an_operator_says_that_it_averages(
    name: str,
) -> None:
    operator = operators.get(name)
    generator = torch.Generator().manual_seed(0)
    base, *sources = (torch.randn(8, 6, generator=generator) for _ in range(3))
    options: dict[str, Any] = {}
    if operator.statistics:
        square = operator.statistics == "grams"
        options[operator.statistics] = [torch.eye(6) if square else base.abs()] * 2
    pairs: list[dict[str, Any]] = [{str(operator.weights): [c, 0.5 * c]} for c in (0.4, 0.8)]
    one, other = (
        operators.apply(name, base=base, sources=sources, **pair, **options) for pair in pairs
    )
    same = bool((one - other).abs().max() < 1e-5)
    assert same == operator.takes_average({})
