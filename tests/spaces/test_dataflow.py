"""Paths through blocks: from genes to slices and scales, and what limits make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from evomerge.errors import ConfigError
from evomerge.optimizers.cmaes import Cmaes
from evomerge.plugins import registry
from evomerge.plugins.registry import validate_options
from evomerge.recipes import Recipe
from evomerge.spaces import SearchContext
from evomerge.spaces.dataflow import DataflowSpace
from evomerge.types import Gene, Genome, Parameter
from evomerge.weights.build import build
from evomerge.weights.library import Library
from evomerge.weights.models import Models
from evomerge.weights.plan import make_plan

SOURCES = ("arithmetic", "strings")
Make = Callable[..., DataflowSpace]
# one block of the zoo's models, and a model without its blocks
BLOCK, AROUND = 213_248, 125_568


@pytest.fixture(scope="module")
def models(zoo: Path) -> Models:
    return Library().open(str(zoo / "base"), {name: str(zoo / name) for name in SOURCES})


@pytest.fixture(scope="module")
def make(models: Models, zoo: Path) -> Make:
    """The space of some options, over models of four blocks."""
    sources = {name: str(zoo / name) for name in SOURCES}
    context = SearchContext(
        base=str(zoo / "base"), sources=sources, layers=4, dtype="float32", models=models
    )
    return lambda **options: space(context, **options)


def space(context: SearchContext, **options: Any) -> DataflowSpace:
    return DataflowSpace(context, **validate_options(DataflowSpace, options))


def path(recipe: Recipe) -> list[str]:
    """The blocks of a stack, e.g. ``base.0``."""
    assert all(end == start + 1 for slice_ in recipe.slices for start, end in slice_.values())
    return [f"{name}.{start}" for s in recipe.slices for name, (start, _) in s.items()]


def decoded(one: DataflowSpace, **genes: Gene) -> Recipe:
    """The recipe of the initial genome with some genes changed, their dots written as __."""
    changed = {name.replace("__", "."): gene for name, gene in genes.items()}
    initial = one.initial().genes
    assert changed.keys() <= initial.keys()
    return one.decode(Genome({**initial, **changed}))


def drawn(one: DataflowSpace, seed: int) -> Genome:
    """Any genome."""
    random = np.random.default_rng(seed)

    def gene(parameter: Parameter) -> Gene:
        match parameter.kind:
            case "bool":
                return bool(random.random() < 0.5)
            case "int":
                return int(random.integers(int(parameter.low), int(parameter.high) + 1))
            case _:
                return parameter.from_unit(float(random.random()))

    return Genome({parameter.name: gene(parameter) for parameter in one.parameters})


OWN = ["base.0", "base.1", "base.2", "base.3"]
ALL_KINDS = [
    {"indicators": "bits", "scales": "hop"},
    {"indicators": "thresholds", "scales": "matrix", "absent": -0.5},
    {"indicators": "bits", "scales": {"kind": "network", "negative": True}},
    {"indicators": "runs", "scales": "none"},
    {"indicators": "runs", "scales": {"kind": "hop", "negative": True, "low": 0.2}},
    {"indicators": "all", "order": True, "scales": "none", "repetitions": 1},
    {"leading": "strings", "sources": ["base"], "repetitions": 2},
]
LIMITS: list[dict[str, Any]] = [
    {},
    {"max_layers": 6},
    {"max_parameters": AROUND + 7 * BLOCK},
    {"max_layers": 9, "keep": {"strings": [0, 2]}},
    {"monotone": True},
    {"monotone": True, "max_layers": 7, "keep": {"base": "all"}},
]


# The start, and the names of genes


@pytest.mark.parametrize("options", ALL_KINDS[:5])
def test_a_search_starts_at_the_path_of_the_leading_model(
    make: Make, options: dict[str, Any]
) -> None:
    start = make(**options).decode(make(**options).initial())
    assert path(start) == OWN
    assert (start.scales, start.operator, list(start.sources)) == ((), "passthrough", ["base"])


@pytest.mark.parametrize("name", ["base", "arithmetic"])
def test_the_start_builds_the_bytes_of_the_leading_model(
    make: Make, zoo: Path, tmp_path: Path, name: str
) -> None:
    one = make(leading=name, scales="none")
    folder = build(one.decode(one.initial()), tmp_path / "start")
    made, own = (load_file(p / "model.safetensors") for p in (folder, zoo / name))
    assert made.keys() == own.keys()
    assert all(torch.equal(made[key], own[key].float()) for key in own)


def test_every_slot_but_the_ends_has_a_bit_and_every_hop_a_scale(make: Make) -> None:
    one = make(repetitions=2)
    names = [parameter.name for parameter in one.parameters]
    bits = [name for name in names if name.startswith("in.")]
    scales = [name for name in names if name.startswith("scale.")]
    assert (len(bits), len(scales)) == (2 * 3 * 4 - 2, 2 * 3 * 4 - 1)
    assert bits[:4] == ["in.0.base.1", "in.0.base.2", "in.0.base.3", "in.0.arithmetic.0"]
    assert "in.0.base.0" not in bits and "in.1.base.3" not in bits
    assert "scale.0.base.0" not in scales and scales[-1] == "scale.1.base.3"


def test_a_matrix_has_a_scale_for_each_pair_of_blocks(make: Make) -> None:
    names = [p.name for p in make(scales="matrix").parameters if p.name.startswith("scale")]
    assert len(names) == (3 * 4) ** 2
    assert names[1] == "scale.base.0.base.1"


def test_the_base_goes_by_the_name_of_the_source_that_it_is(models: Models, zoo: Path) -> None:
    base = str(zoo / "base")
    sources = {"general": base, "strings": str(zoo / "strings")}
    one = space(
        SearchContext(
            base=base,
            sources=sources,
            layers=4,
            dtype="float32",
            models=Library().open(base, sources),
        ),
        repetitions=1,
    )
    assert path(one.decode(one.initial())) == [f"general.{layer}" for layer in range(4)]
    assert [p.name for p in one.parameters if p.name.startswith("in.")] == [
        *("in.0.general.1", "in.0.general.2"),
        *(f"in.0.strings.{layer}" for layer in range(4)),
    ]


# Genes to paths


def test_bits_say_which_slots_are_in(make: Make) -> None:
    recipe = decoded(
        make(repetitions=2, scales="none"),
        **{"in.0.base.1": False, "in.0.strings.3": True, "in.1.arithmetic.0": True},
        **{"in.1.base.0": True},
    )
    assert path(recipe) == ["base.0", "base.2", "strings.3", "base.0", "arithmetic.0", "base.3"]
    assert list(recipe.sources) == ["base", "arithmetic", "strings"]


def test_a_slot_is_in_where_its_threshold_is_positive(make: Make) -> None:
    one = make(indicators="thresholds", repetitions=1, scales="none")
    starts = {p.name: p.initial for p in one.parameters}
    assert starts["in.0.base.1"] == pytest.approx(2 / 3)
    assert starts["in.0.strings.1"] == 0.0
    recipe = decoded(one, **{"in.0.strings.1": 1e-9, "in.0.base.1": -1e-9})
    assert path(recipe) == ["base.0", "base.2", "strings.1", "base.3"]


def test_a_run_is_one_stretch_of_a_model(make: Make) -> None:
    one = make(indicators="runs", repetitions=2, scales="none")
    recipe = decoded(
        one,
        **{"from.0.base": 0, "to.0.base": 2, "from.0.strings": 1, "to.0.strings": 4},
        **{"from.1.base": 3, "to.1.base": 1},
    )
    assert path(recipe) == ["base.0", "base.1", "strings.1", "strings.2", "strings.3", "base.3"]


def test_depth_upscaling_starts_at_the_two_runs_of_solar() -> None:
    context = SearchContext(base="/base", sources={"a": "/a"}, layers=32, dtype="bfloat16")
    one = space(context, sources=[], indicators="runs", repetitions=2, overlap=0.5, scales="none")
    expected = [f"base.{layer}" for layer in [*range(24), *range(8, 32)]]
    assert path(one.decode(one.initial())) == expected
    assert len(one.parameters) == 4


def test_genes_of_order_sort_what_is_between_the_ends(make: Make) -> None:
    one = make(sources=[], repetitions=1, indicators="all", order=True, scales="none")
    assert path(one.decode(one.initial())) == OWN
    first, second = (p.name for p in one.parameters)
    recipe = one.decode(Genome({first: 0.9, second: 0.1}))
    assert path(recipe) == ["base.0", "base.2", "base.1", "base.3"]


def test_what_genes_of_absent_slots_say_does_not_matter(make: Make) -> None:
    one = make()
    recipe = decoded(one, **{"scale.0.strings.1": 1.3, "scale.2.base.2": 0.8})
    assert recipe.digest == one.decode(one.initial()).digest


# Scales


def test_the_scale_of_a_slot_is_on_the_way_into_it(make: Make) -> None:
    recipe = decoded(make(), **{"scale.0.base.2": 1.25, "scale.2.base.3": 0.75})
    assert recipe.scales == (1.0, 1.0, 1.25, 0.75)


def test_a_matrix_scales_each_pair_of_neighbours_alike(make: Make) -> None:
    one = make(scales="matrix", repetitions=2)
    genes = {"scale.base.1.base.2": 0.8, "in.1.base.1": True, "in.1.base.2": True}
    recipe = decoded(one, **genes, **{"scale.base.2.base.1": 1.2})
    assert path(recipe) == ["base.0", "base.1", "base.2", "base.1", "base.2", "base.3"]
    assert recipe.scales == (1.0, 1.0, 0.8, 1.2, 0.8, 1.0)


def test_a_network_starts_at_the_initial_scale_and_tells_hops_apart(make: Make) -> None:
    one = make(scales={"kind": "network", "initial": 0.9, "hidden": 2})
    assert one.decode(one.initial()).scales == (1.0, 0.9, 0.9, 0.9)
    moved = decoded(one, **{"theta.0.out": 3.0}).scales
    assert len(set(moved)) == 4 and all(0.7 <= scale <= 1.4 for scale in moved)


def test_a_network_that_learned_everything_ends_at_the_bounds(make: Make) -> None:
    one = make(scales={"kind": "network", "hidden": 64})
    units = {f"theta.{unit}.{word}": 0.0 for unit in range(64) for word in ("from", "to", "slot")}
    for sign, bound in ((4.0, 1.4), (-4.0, 0.7)):
        outer = {f"theta.{unit}.out": sign for unit in range(64)}
        recipe = decoded(one, **units, **outer, **{f"theta.{u}.one": 4.0 for u in range(64)})
        assert recipe.scales == (1.0, bound, bound, bound)


def test_a_scale_too_near_to_zero_is_moved_away_from_it(make: Make) -> None:
    one = make(scales={"kind": "hop", "negative": True, "low": 0.5, "high": 1.5})
    genes = {"scale.0.base.1": 0.1, "scale.0.base.2": -0.2, "scale.2.base.3": -1.5}
    assert decoded(one, **genes).scales == (1.0, 0.5, -0.5, -1.5)


def test_without_the_option_no_scale_is_negative(make: Make) -> None:
    scales = [p for p in make().parameters if p.name.startswith("scale.")]
    assert {(p.low, p.high, p.initial, p.scale) for p in scales} == {(0.7, 1.4, 1.0, "log")}


@pytest.mark.parametrize(("gene", "negative"), [(100.0, False), (0.01, False), (-100.0, True)])
def test_scales_that_multiply_to_too_much_lose_their_magnitude(
    make: Make, gene: float, negative: bool
) -> None:
    one = make(scales={"low": 0.01, "high": 100, "negative": negative})
    genes = {n: True if n.startswith("in.") else gene for n in one.initial().genes}
    found = one.decode(Genome(genes)).scales
    assert len(found) == 36
    # the product of 15 of them, 1e30 or 1e-30, is the most that weights make up for
    assert all(scale == gene for scale in found[1:15])
    assert {abs(scale) for scale in found[16:]} == {1.0}
    assert all((scale < 0) == negative for scale in found[1:])


@pytest.mark.parametrize(
    ("scales", "last"), [("none", 1), ("hop", 1.4), ({"low": 0.5, "high": 1}, 0.5)]
)
def test_the_largest_stack_is_scaled_where_any_is(make: Make, scales: Any, last: float) -> None:
    largest = make(scales=scales).largest()
    assert largest.scales == (() if last == 1 else (*(1.0,) * 35, last))


# Limits


def everything(one: DataflowSpace) -> Genome:
    genes = one.initial().genes
    return Genome({n: True if n.startswith("in.") else gene for n, gene in genes.items()})


def test_of_bits_the_last_slots_go(make: Make) -> None:
    one = make(repetitions=1, scales="none", max_layers=6)
    kept = ["base.0", "base.1", "base.2", "arithmetic.0", "arithmetic.1", "base.3"]
    assert path(one.decode(everything(one))) == kept


def test_of_thresholds_the_least_go(make: Make) -> None:
    one = make(indicators="thresholds", repetitions=1, scales="none", max_layers=4)
    genes = {"in.0.strings.1": 0.5, "in.0.base.1": 0.4, "in.0.base.2": 0.3, "in.0.strings.2": 0.2}
    assert path(decoded(one, **genes)) == ["base.0", "base.1", "strings.1", "base.3"]


def test_weights_are_limited_to_the_last_one(make: Make, models: Models) -> None:
    assert models.base.parameter_count == AROUND + 4 * BLOCK
    for weights, layers in ((AROUND + 5 * BLOCK, 5), (AROUND + 5 * BLOCK - 1, 4)):
        one = make(repetitions=1, scales="none", max_parameters=weights)
        assert one.decode(everything(one)).depth == layers


def test_a_monotone_path_never_steps_back_within_a_model(make: Make) -> None:
    one = make(repetitions=2, scales="none", sources=["strings"], monotone=True)
    back = {"in.1.base.1": True, "in.1.base.2": True, "in.0.strings.2": True}
    recipe = decoded(one, **back, **{"in.1.strings.1": True, "in.1.strings.3": True})
    expected = ["base.0", "base.1", "base.2", "strings.2", "base.2", "strings.3", "base.3"]
    assert path(recipe) == expected


def test_blocks_to_keep_have_no_gene_and_are_always_in(make: Make) -> None:
    one = make(repetitions=2, scales="none", keep={"strings": [1], "base": "all"}, max_layers=5)
    names = {parameter.name for parameter in one.parameters}
    assert not names & {"in.0.strings.1", "in.0.base.1", "in.0.base.2"}
    empty = dict.fromkeys(names, False)
    expected = ["base.0", "base.1", "base.2", "strings.1", "base.3"]
    assert path(one.decode(Genome(empty))) == path(one.decode(everything(one))) == expected


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("options", ALL_KINDS)
def test_any_genome_is_a_recipe_within_the_limits(
    make: Make, options: dict[str, Any], limits: dict[str, Any]
) -> None:
    if limits.get("monotone") and options.get("order"):
        return  # which is refused
    if "keep" in limits and options.get("sources") == ["base"]:
        limits = {**limits, "keep": {"strings": [0, 2]}}
    one = make(**{**options, **limits})
    largest = one.largest()
    deepest = max(largest.depth or 0, 0)
    last = path(one.decode(one.initial()))[-1]
    for seed in range(20):
        recipe = one.decode(drawn(one, seed))
        assert recipe == one.decode(drawn(one, seed))
        assert Recipe.from_canonical_json(recipe.canonical_json()) == recipe
        blocks = path(recipe)
        assert recipe.depth == len(blocks) <= deepest <= limits.get("max_layers", 1000)
        assert AROUND + len(blocks) * BLOCK <= limits.get("max_parameters", 10**9)
        assert (blocks[0], blocks[-1]) == (last.replace(".3", ".0"), last)
        for model, numbers in limits.get("keep", {}).items():
            every = range(4) if numbers == "all" else numbers
            assert {f"{model}.{number}" for number in every} <= set(blocks)
        assert recipe.sources.keys() <= largest.sources.keys()
        assert all(0.2 <= abs(scale) <= 1.4 for scale in recipe.scales)
        if limits.get("monotone"):
            for model in recipe.sources:
                own = [block for block in blocks if block.startswith(f"{model}.")]
                assert own == sorted(own)


def test_a_drawn_recipe_is_planned_with_its_scales(make: Make, models: Models) -> None:
    one = make(scales={"kind": "hop", "negative": True}, max_layers=9)
    recipe = one.decode(drawn(one, 3))
    plan = make_plan(recipe, models)
    assert plan.models.layers == recipe.depth == 9
    assert sum(step.is_folded for step in plan.steps) > 0


def test_the_base_under_another_leading_model_has_another_name(make: Make, tmp_path: Path) -> None:
    one = make(leading="strings", sources=["base"], repetitions=1, scales="none")
    recipe = decoded(one, **{"in.0.base.2": True})
    assert path(recipe)[3:] == ["base_model.2", "strings.3"]
    assert recipe.base == recipe.sources["strings"]
    build(recipe, tmp_path / "built")


def test_the_base_has_no_name_that_a_source_has(zoo: Path) -> None:
    sources = {"strings": str(zoo / "strings"), "base_model": str(zoo / "arithmetic")}
    base = str(zoo / "base")
    context = SearchContext(
        base=base, sources=sources, layers=4, dtype="float32", models=Library().open(base, sources)
    )
    options: dict[str, Any] = {"sources": ["base", "base_model"], "scales": "none"}
    one = space(context, leading="strings", repetitions=1, **options)
    recipe = decoded(one, **{"in.0.base.2": True, "in.0.base_model.1": True})
    assert path(recipe)[3:] == ["base_model_.2", "base_model.1", "strings.3"]
    assert recipe.sources["base_model"] == sources["base_model"]
    assert recipe.sources["base_model_"] == base


# Optimizers


@pytest.mark.parametrize(
    ("options", "algorithm"),
    [
        ({}, "CatCMAwM"),
        ({"indicators": "runs"}, "CatCMAwM"),
        ({"indicators": "thresholds"}, "CMA"),
        ({"indicators": "thresholds", "scales": "matrix", "repetitions": 6}, "SepCMA"),
        ({"indicators": "thresholds", "scales": "network"}, "CMA"),
    ],
)
def test_cmaes_takes_every_genome(make: Make, options: dict[str, Any], algorithm: str) -> None:
    one = make(**options, max_layers=8)
    optimizer = Cmaes(one.parameters, 0, population_size=4)
    assert optimizer.algorithm == algorithm
    for number in range(4):
        genome = optimizer.ask(number)
        assert genome is not None
        assert path(one.decode(genome))[-1] == "base.3"


# Mistakes


def test_every_wrong_name_is_reported_at_once(make: Make) -> None:
    with pytest.raises(ConfigError) as error:
        make(leading="bas", sources=["string", "arithmetic", "arithmetic"], scales={"low": 2})
    assert error.value.problems == (
        "leading: no model is called 'bas'. Did you mean 'base'?",
        "sources: no model is called 'string'. Did you mean 'strings'?",
        "sources: arithmetic is named twice. Raise repetitions instead.",
        "scales: low 2 lies above high 1.4. Lower low, or raise high.",
    )


def test_what_is_wrong_with_the_other_keys_is_reported_beside_a_key_of_the_wrong_kind(
    make: Make, models: Models, zoo: Path
) -> None:
    context = SearchContext(
        base=str(zoo / "base"),
        sources={n: str(zoo / n) for n in SOURCES},
        layers=4,
        dtype="float32",
        models=models,
    )
    options = {
        **{"leading": "bas", "keep": {"strings": [7], "x": [0]}, "scales": 1, "indicator": "runs"},
        # needs runs, which the message about indicator suggests already
        "overlap": 0.5,
    }
    with pytest.raises(ConfigError) as error:
        registry.make(DataflowSpace, options, context)
    first, *others = (problem.split(":")[0] for problem in error.value.problems)
    assert first == "scales"
    assert others == ["indicator", "leading", "keep.strings", "keep"]


def test_limits_that_no_path_keeps_are_reported_at_once(make: Make) -> None:
    with pytest.raises(ConfigError) as error:
        make(keep={"base": "all"}, max_layers=3, max_parameters=10)
    first, second = error.value.problems
    assert first.startswith(
        "max_layers: 3, but the ends of every path and the blocks to keep are 4"
    )
    assert str(AROUND + 4 * BLOCK) in second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": {"base": [4, 1, -1]}}, r"keep\.base: it has blocks 0 to 3, got 4, -1$"),
        ({"sources": [], "keep": {"strings": [0]}}, "keep: 'strings' is .* paths. Add it to sour"),
        ({"keep": {"string": [0]}}, "keep: 'string' is not .* Did you mean 'strings'?"),
        ({"keep": {"base": 1}}, r"^keep\.base: expected a list of block numbers, .* got 1$"),
        ({"keep": {"base": "al"}}, r"^keep\.base: expected a list .* or all, got 'al'$"),
        ({"keep": {"base": [0.0]}}, r"^keep\.base: expected a list .* or all, got \[0.0\]$"),
        ({"keep": ["base"]}, r"^keep: expected keys with values \(got \['base'\]\)$"),
        ({"order": True, "monotone": True}, "monotone: order sorts the blocks"),
        ({"overlap": 0.5}, "overlap: needs indicators: runs"),
        ({"indicators": "all", "scales": "none"}, "indicators: nothing varies"),
        ({"scales": {"initial": 0.2}}, r"scales\.initial: 0\.2 lies outside \[0\.7, 1\.4\]"),
        ({"scales": [1.0, 0.9]}, r"^scales: expected none, hop, .* got \[1\.0, 0\.9\]\. The sc"),
        ({"scales": 0}, r"^scales: expected none, hop, matrix, network, or the keys .* got 0\."),
        ({"scales": {"low": 0}}, r"scales\.low: Input should be greater than or equal to 0\.01"),
        ({"scales": {"low": float("nan")}}, r"scales\.low: Input should be a finite number"),
        ({"scales": {"initial": 0}}, r"scales\.initial: 0 lies outside .* Choose one inside"),
        ({"scales": "hops"}, r"scales\.kind: Input should be 'none', 'hop'"),
        ({"scales": {"kind": "hop", "lwo": 1}}, r"scales\.lwo: unknown key\. Did you mean 'low'"),
        ({"repetitions": 0}, "repetitions: Input should be greater"),
    ],
)
def test_what_makes_no_path_is_refused(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)


@pytest.mark.parametrize("repetitions", [1, 2])
def test_a_model_without_numbered_blocks_has_no_path(
    layers: dict[str, Any], repetitions: int
) -> None:
    names = {"base": layers["base"], "sources": layers["sources"]}
    models = Library().open(**names)
    context = SearchContext(**names, layers=1, dtype="float32", models=models)
    with pytest.raises(ConfigError, match="base: a path needs two blocks of it, it has 0") as error:
        space(context, repetitions=repetitions, keep={"base": [0]})
    assert error.value.problems[1] == "keep.base: it has no blocks, got 0"


@pytest.mark.parametrize("indicators", ["bits", "thresholds", "runs"])
def test_a_search_may_start_with_each_models_blocks_between_the_ends_of_the_leading(
    make: Make, indicators: str
) -> None:
    one = make(indicators=indicators, leading="strings", repetitions=2)
    starts = {label: path(one.decode(genome)) for label, genome in one.starts(["strings"])}
    assert starts == {
        "initial": ["strings.0", "strings.1", "strings.2", "strings.3"],
        "arithmetic between the ends of strings": [
            *("strings.0", "arithmetic.1", "arithmetic.2", "strings.3")
        ],
    }


def test_paths_of_one_model_start_at_it(make: Make) -> None:
    for options in ({"indicators": "bits"}, {"indicators": "all", "order": True}):
        assert len(make(sources=[], repetitions=1, **options).starts(["strings"])) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"indicators": "bits"},
        {"indicators": "thresholds", "order": True},
        {"indicators": "runs", "leading": "arithmetic", "scales": "none"},
        {"scales": {"kind": "hop", "negative": True}},
        {"scales": "matrix", "repetitions": 1},
        {"max_layers": 6, "monotone": True, "keep": {"strings": [1]}},
    ],
)
def test_a_path_is_turned_back_into_genes(make: Make, options: Any) -> None:
    one = make(**options)
    for seed in range(5):
        recipe = one.decode(drawn(one, seed))
        again = one.decode(one.encode(recipe))
        assert path(again) == path(recipe)
        assert again.scales == pytest.approx(recipe.scales)


def test_paths_and_scales_that_no_genes_give_are_refused(make: Make) -> None:
    wide, narrow = make(repetitions=2), make(max_layers=4, scales="none", repetitions=1)
    long = wide.encode(wide.decode(drawn(wide, 0)))
    with pytest.raises(ConfigError, match=r"^slices: no path of this space goes through these"):
        narrow.encode(wide.decode(long))
    inner = {f"in.0.{name}": True for name in ("base.1", "base.2", "arithmetic.1", "strings.1")}
    longer = wide.decode(Genome({**wide.initial().genes, **inner}))
    with pytest.raises(ConfigError, match=r"^slices: a path that the limits or kept blocks"):
        narrow.encode(longer)
    scaled = decoded(wide, scale__0__base__1=1.25)
    with pytest.raises(ConfigError, match=r"^scales: no genome of this space gives these"):
        narrow.encode(scaled)
    merged = wide.context.recipe("linear", {"weight": 1.0})
    with pytest.raises(ConfigError, match=r"^operator: linear, and this space stacks blocks"):
        narrow.encode(merged)
