"""The parameter space: from genes to recipes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from evomerge.errors import ConfigError, RecipeError
from evomerge.optimizers import Optimizer
from evomerge.plugins import registry
from evomerge.spaces import SearchContext
from evomerge.spaces.parameter import Granularity, ParameterSpace
from evomerge.types import Evaluation, Genome, Parameter

CONTEXT = SearchContext(
    base="/base", sources={"a": "/a", "b": "/b"}, layers=4, dtype="float32", seed=7
)


def space(**keys: Any) -> ParameterSpace:
    granularity = keys.pop("granularity", {})
    return ParameterSpace(CONTEXT, granularity=Granularity(**granularity), **keys)


def test_a_gene_for_each_parameter_source_role_and_group() -> None:
    found = space(
        operator="ties",
        granularity={"layers": 2, "roles": ["attention", "other"]},
        parameters={"weight": {"low": 0, "high": 1}, "lam": {"low": 0.5, "high": 2}},
    )
    assert [p.name for p in found.parameters] == [
        "weight.a.attention.0",
        "weight.a.attention.1",
        "weight.a.other.0",
        "weight.a.other.1",
        "weight.b.attention.0",
        "weight.b.attention.1",
        "weight.b.other.0",
        "weight.b.other.1",
        "lam.attention.0",
        "lam.attention.1",
        "lam.other.0",
        "lam.other.1",
    ]


def test_genes_land_in_their_source_role_and_layers() -> None:
    found = space(
        operator="task_arithmetic",
        granularity={"layers": 2, "roles": ["attention", "other"]},
        parameters={"weight": {"low": 0, "high": 1}},
    )
    genes = {p.name: 0.0 for p in found.parameters} | {"weight.b.attention.1": 0.75}
    recipe = found.decode(Genome(genes))
    places = {
        (source, role, layer): recipe.setting("weight", source, role, layer, "")
        for source in "ab"
        for role in ("attention", "mlp", "head")
        for layer in range(4)
    }
    hit = {("b", "attention", 2), ("b", "attention", 3)}
    assert {place for place, value in places.items() if value == 0.75} == hit
    assert {place for place, value in places.items() if value == 0.0} == set(places) - hit


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("all", ["t"]),
        ("each", ["t.0", "t.1", "t.2", "t.3"]),
        (3, ["t.0", "t.1", "t.2"]),
        (9, ["t.0", "t.1", "t.2", "t.3"]),
    ],
)
def test_granularity_of_layers(layers: str | int, names: list[str]) -> None:
    found = space(
        operator="slerp", granularity={"layers": layers}, parameters={"t": {"low": 0, "high": 1}}
    )
    assert [p.name for p in found.parameters] == names


def test_the_start_is_the_given_value_or_the_middle_of_the_scale() -> None:
    found = space(
        operator="ties",
        parameters={
            "weight": {"low": 0, "high": 1.5, "initial": 0.5},
            "density": {"low": 0.01, "high": 1, "scale": "log"},
        },
    )
    start = found.initial().genes
    assert start["weight.a"] == 0.5
    assert start["density.a"] == pytest.approx(0.1)


def test_a_searched_operator_takes_only_the_parameters_it_has() -> None:
    found = space(
        operator=["linear", "ties"],
        parameters={"weight": {"low": 0, "high": 1}, "density": {"low": 0.1, "high": 1}},
    )
    assert found.parameters[0].choices == ("linear", "ties")
    genes = dict(found.initial().genes)
    assert set(found.decode(Genome(genes | {"operator": "linear"})).parameters) == {"weight"}
    chosen = found.decode(Genome(genes | {"operator": "ties"}))
    assert chosen.operator == "ties"
    assert set(chosen.parameters) == {"weight", "density"}


def test_fixed_values_and_choices_reach_the_recipe() -> None:
    found = space(
        operator="ties",
        parameters={
            "weight": {"low": 0, "high": 1},
            "consensus": {"choices": ["sum", "count"]},
            "normalize": {"choices": [True, False], "initial": False},
            "lam": 0.7,
        },
    )
    genes = dict(found.initial().genes)
    assert genes["normalize"] is False
    recipe = found.decode(Genome(genes | {"consensus": "count"}))
    assert recipe.parameters["consensus"] == "count"
    assert recipe.parameters["normalize"] is False
    assert recipe.parameters["lam"] == 0.7


def test_a_parameter_may_have_a_granularity_of_its_own() -> None:
    found = space(
        operator="ties",
        granularity={"layers": "each"},
        parameters={
            "weight": {"low": 0, "high": 1, "granularity": {"layers": "all"}},
            "lam": {"low": 0, "high": 1},
        },
    )
    assert [p.name for p in found.parameters] == [
        "weight.a",
        "weight.b",
        *(f"lam.{i}" for i in range(4)),
    ]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"operator": "tied", "parameters": {}},
            "no operator is called 'tied'. Did you mean 'ties'?",
        ),
        (
            {"operator": "ties", "parameters": {"wieght": {"low": 0, "high": 1}}},
            "parameters.wieght: ties has no such parameter. Did you mean 'weight'?",
        ),
        (
            {"operator": "ties", "parameters": {"density": {"low": -1, "high": 1}}},
            r"parameters.density: ties: must lie in \[0, 1\], got -1",
        ),
        (
            {"operator": "ties", "parameters": {"density": -1, "weight": {"low": 0, "high": 1}}},
            r"parameters.density: ties: must lie in \[0, 1\], got -1",
        ),
        (
            {"operator": "ties", "parameters": {"weight": {"low": 2, "high": 1}}},
            "parameters.weight: low 2 lies above high 1",
        ),
        (
            {"operator": "ties", "parameters": {"weight": {"low": 0, "high": 1, "scale": "log"}}},
            "a log scale needs a positive low",
        ),
        (
            {"operator": "ties", "parameters": {"weight": {"low": 0, "high": 1, "initial": 3}}},
            r"initial 3.0 lies outside \[0, 1\]",
        ),
        (
            {"operator": "ties", "parameters": {"weight": {"lo": 0, "high": 1}}},
            "parameters.weight.lo: unknown key. Did you mean 'low'?",
        ),
        (
            {"operator": "nearswap", "parameters": {"t": {"low": -1, "high": 2}}},
            "parameters.t: nearswap: Input should be greater than or equal to 0",
        ),
        (
            {"operator": "ties", "parameters": {"lam": {"simplex": True}}},
            "parameters.lam: ties has one value for all sources. Remove simplex",
        ),
        (
            {"operator": "ties", "parameters": {"weight": {"simplex": True, "scale": "log"}}},
            "parameters.weight: the genes of a simplex are logits already. Remove scale",
        ),
        (
            {"operator": "ties", "parameters": {"weight": {"simplex": True, "kind": "int"}}},
            "parameters.weight: logits are no integers. Remove kind",
        ),
        (
            {
                "operator": "ties",
                "parameters": {"consensus": {"choices": ["sum"], "simplex": True}},
            },
            "parameters.consensus: choices do not add up to 1. Remove simplex",
        ),
        (
            {"operator": "ties", "parameters": {"lam": {"low": 0, "high": 1, "scale": "logit"}}},
            r"parameters.lam: a logit scale needs bounds within \(0, 1\), got 0 and 1",
        ),
        (
            {"operator": "ties", "parameters": {"lam": {"low": 0, "high": "souces"}}},
            "parameters.lam: high: expected a number, got 'souces'",
        ),
        (
            {"operator": "ties", "parameters": {"density": {"a": 0.5, "b": 2}, "lam": 1}},
            r"parameters.density: ties: must lie in \[0, 1\], got 2",
        ),
        (
            {"operator": "ties", "order": True, "parameters": {}},
            "order: that of the sources does not matter to ties",
        ),
        ({"operator": "ties", "parameters": {"weight": 1.0}}, "nothing varies"),
        ({"operator": [], "parameters": {}}, "name at least one"),
    ],
)
def test_mistakes_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space(**keys)


def test_a_simplex_has_one_gene_less_than_sources_and_values_that_sum_to_one() -> None:
    found = space(
        operator="linear", granularity={"layers": 2}, parameters={"weight": {"simplex": True}}
    )
    assert [p.name for p in found.parameters] == ["weight.b.0", "weight.b.1"]
    assert {(p.low, p.high, p.initial) for p in found.parameters} == {(-4, 4, 0)}
    assert found.decode(found.initial()).parameters == {"weight": 0.5}
    recipe = found.decode(Genome({"weight.b.0": 0.0, "weight.b.1": math.log(3)}))
    assert recipe.parameters["weight"] == {
        "a": [0.5, 0.5, 0.25, 0.25],
        "b": [0.5, 0.5, pytest.approx(0.75), pytest.approx(0.75)],
    }


def test_a_simplex_of_one_source_is_nothing_to_search() -> None:
    alone = replace(CONTEXT, sources={"a": "/a"})
    parameters = {"weight": {"simplex": True}, "normalize": {"choices": [True, False]}}
    found = ParameterSpace(alone, operator="linear", parameters=parameters)
    assert [p.name for p in found.parameters] == ["normalize"]
    assert found.decode(found.initial()).parameters["weight"] == 1.0


def test_a_logit_scale_searches_the_logit() -> None:
    span = {"low": 0.1, "high": 0.9, "initial": 0.25, "scale": "logit"}
    found = space(operator="adamerging", parameters={"coefficient": span})
    gene = found.parameters[0]
    assert gene.scale == "linear"
    assert gene.initial == pytest.approx(math.log(1 / 3))
    assert gene.low == pytest.approx(-gene.high) == pytest.approx(-math.log(9))
    recipe = found.decode(Genome({"coefficient.a": 0.0, "coefficient.b": gene.high}))
    assert recipe.parameters["coefficient"] == {"a": 0.5, "b": pytest.approx(0.9)}


@pytest.mark.parametrize(("sources", "expected"), [("a", (1, 1, 1)), ("abc", (1, 3, 2))])
def test_bounds_may_be_the_number_of_sources(sources: str, expected: tuple[int, ...]) -> None:
    context = replace(CONTEXT, sources={name: f"/{name}" for name in sources})
    span = {"low": 1, "high": "sources", "kind": "int", "initial": 2}
    (gene,) = ParameterSpace(context, operator="consensus_ta", parameters={"k": span}).parameters
    assert (gene.low, gene.high, gene.initial) == expected


def test_a_start_of_one_part_in_sources_is_moved_within_the_bounds() -> None:
    span = {"low": 0.6, "high": 1, "initial": "1/sources"}
    assert space(operator="emr", parameters={"lam": span}).parameters[0].initial == 0.6
    span["low"] = 0.1
    assert space(operator="emr", parameters={"lam": span}).parameters[0].initial == 0.5


def test_the_order_of_sources_is_searched_where_it_matters() -> None:
    found = space(
        operator=["opcm", "task_arithmetic"],
        order=True,
        parameters={"alpha": {"low": 0, "high": 0.9}},
    )
    assert [p.name for p in found.parameters] == ["operator", "alpha", "order.a", "order.b"]
    start = dict(found.initial().genes)
    assert list(found.decode(Genome(start)).sources) == ["a", "b"]
    turned = start | {"order.b": 0.25}
    assert list(found.decode(Genome(turned)).sources.items()) == [("b", "/b"), ("a", "/a")]
    other = turned | {"operator": "task_arithmetic"}
    assert list(found.decode(Genome(other)).sources) == ["a", "b"]


def test_a_fixed_setting_may_differ_by_source_and_role() -> None:
    found = space(
        operator="mwa",
        parameters={"metric": {"a": 1.5, "b": 2.5}, "penalty": {"low": 0, "high": 8}},
    )
    assert found.decode(found.initial()).parameters["metric"] == {"a": 1.5, "b": 2.5}


def test_every_operator_on_task_vectors_has_the_parameters_of_modifiers() -> None:
    found = space(
        operator=["linear", "ties"],
        parameters={
            "lines_alpha": {"low": 0, "high": 1},
            "compeft_density": {"low": 0.05, "high": 0.5},
            "lines_head": "last",
        },
    )
    assert [p.name for p in found.parameters if p.kind == "float"] == [
        "lines_alpha",
        "compeft_density.a",
        "compeft_density.b",
    ]
    genes = dict(found.initial().genes)
    assert found.decode(Genome(genes | {"operator": "linear"})).parameters == {}
    assert "lines_head" in found.decode(Genome(genes | {"operator": "ties"})).parameters


def test_statistics_reach_the_recipes_of_operators_that_need_them() -> None:
    context = replace(CONTEXT, statistics={"a": "/stats/a", "b": "/stats/b"})
    assert context.recipe("fisher").statistics == {"a": "/stats/a", "b": "/stats/b"}
    assert context.recipe("linear").statistics == {}
    assert replace(context, sources={"a": "/a"}).recipe("fisher").statistics == {"a": "/stats/a"}


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        space(
            operator="ties",
            parameters={"wieght": {"low": 0, "high": 1}, "density": {"low": -1, "high": 1}},
        )
    assert len(caught.value.problems) == 2


INFINITE = float("inf")


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        (INFINITE, ": expected a finite number, got inf"),
        ({"low": -INFINITE, "high": 1}, ": low: expected a finite number, got -inf"),
        ({"low": 0, "high": INFINITE}, ": high: expected a finite number, got inf"),
        (
            {"low": 0, "high": 1, "initial": float("nan")},
            ": initial: expected a finite number, got nan",
        ),
        ({"low": 0, "high": 1, "initial": True}, ": initial: expected a number, got True"),
        ({"low": 0, "high": 1, "initial": "one"}, ": initial: expected a number, got 'one'"),
        (
            {"low": 0.2, "high": 0.8, "kind": "int"},
            ": no integer lies between low 0.2 and high 0.8",
        ),
        *(
            (
                {"choices": choices},
                ".choices: words, or true and false; for numbers give low and high",
            )
            for choices in ([0.1, 0.5], [1, 0], [True], [True, "sum"])
        ),
        ({"choices": ["sum", "sum"]}, ".choices: a choice is named twice"),
        ({"low": 0, "high": 1e39}, ".high: expected a number that float32 can hold, got 1e+39"),
        (
            {"mlp": 1, "attention": 10**400},
            ": expected a finite number, got a number of more than 300 digits",
        ),
        (
            {"low": 1e-40, "high": 1, "scale": "log"},
            ": a log scale needs a low of at least 1.2e-38, got 1e-40",
        ),
        (
            {"low": 0, "high": 1e18, "kind": "int"},
            ": an int has bounds up to 2^53, got 0 and 1e+18",
        ),
    ],
)
def test_a_setting_that_no_search_can_use_is_one_problem(setting: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space(operator="ties", parameters={"lam": setting, "weight": {"low": 0, "high": 1}})
    assert caught.value.problems == (f"parameters.lam{problem}",)


def test_a_start_is_a_choice_of_the_same_type() -> None:
    with pytest.raises(ConfigError) as caught:
        switch = {"choices": [True, False], "initial": 1}
        space(operator="ties", parameters={"normalize": switch, "weight": {"low": 0, "high": 1}})
    assert caught.value.problems == ("parameters.normalize: initial 1.0 is none of the choices",)


def test_a_number_is_no_flag() -> None:
    with pytest.raises(ConfigError) as caught:
        space(operator="ties", parameters={"lam": {"choices": [True, False]}})
    assert caught.value.problems == (
        "parameters.lam: ties: expected a number, got true",
        "parameters.lam: ties: expected a number, got false",
    )


@pytest.mark.parametrize(
    ("operator", "problem"),
    [
        ([], "operator: name at least one"),
        (["ties", "linear", "ties"], "operator: ties is named twice"),
    ],
)
def test_a_list_of_operators_names_each_once(operator: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space(operator=operator, parameters={"weight": {"low": 0, "high": 1}})
    assert caught.value.problems == (problem,)


def test_a_parameter_of_two_operators_is_suggested_once() -> None:
    with pytest.raises(ConfigError) as caught:
        space(operator=["task_arithmetic", "linear"], parameters={"zzz": 1})
    assert caught.value.problems[0].count("weight") == 1


@pytest.mark.parametrize(
    ("low", "high", "initial", "expected"),
    [
        (0.6, 2.4, None, (2, 1, 2)),
        (0.2, 1.4, 0.3, (1, 1, 1)),
        (0.2, 1.8, 1.7, (1, 1, 1)),
        (-1.5, 3.0, None, (1, -1, 3)),
    ],
)
def test_an_int_starts_at_an_integer_within_its_bounds(
    low: float, high: float, initial: float | None, expected: tuple[int, int, int]
) -> None:
    span = {"low": low, "high": high, "initial": initial, "kind": "int"}
    (gene,) = space(operator="ties", parameters={"lam": span}).parameters
    assert gene.kind == "int"
    assert (gene.initial, gene.low, gene.high) == expected
    assert type(gene.initial) is int


@pytest.mark.parametrize("name", registry.names("optimizers"))
@pytest.mark.parametrize(("low", "high"), [(0.6, 1.4), (0.6, 2.4), (0.6, 300.4)])
def test_every_genome_has_every_integer_within_its_bounds(
    name: str, low: float, high: float
) -> None:
    found = space(
        operator="ties",
        parameters={
            "weight": {"low": 0, "high": 1},
            "lam": {"low": low, "high": high, "kind": "int"},
        },
    )
    for parameters in (
        found.parameters,
        (Parameter("lam", "int", 1, low=low, high=high), Parameter("weight", "float", 0.5)),
    ):
        optimizer = registry.find("optimizers", name, Optimizer)(parameters, 1)
        for number in range(60):
            genome = optimizer.ask(number)
            assert genome is not None
            names = list(genome.genes)  # of a child more may follow
            assert names[: len(parameters)] == [p.name for p in parameters]
            assert low <= float(genome.genes["lam"]) <= high
            optimizer.tell(number, Evaluation("done", value=-float(genome.genes["lam"])))


def test_settings_that_no_recipe_can_hold_are_a_recipe_error() -> None:
    with pytest.raises(RecipeError) as caught:
        CONTEXT.recipe("ties", {"lam": INFINITE})
    assert caught.value.problems == (
        "recipe: lam: expected a finite number, a word or true/false, got inf",
    )


def test_all_sources_have_one_gene_for_what_only_a_recipe_tells_apart() -> None:
    found = space(
        operator="della",
        parameters={"epsilon": {"low": 0, "high": 0.1}, "density": {"low": 0.2, "high": 0.8}},
    )
    assert [p.name for p in found.parameters] == ["epsilon", "density.a", "density.b"]
