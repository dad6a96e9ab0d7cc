"""Every search space that comes with evomerge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge import operators, presets
from evomerge.plugins import registry
from evomerge.recipes import Recipe
from evomerge.spaces import SearchContext
from evomerge.spaces.crossover import CrossoverSpace
from evomerge.spaces.dataflow import DataflowSpace
from evomerge.spaces.joint import JointSpace
from evomerge.spaces.parameter import ParameterSpace
from evomerge.types import Gene, Genome, Parameter
from evomerge.weights.library import Library
from evomerge.yaml_files import read_yaml

FOLDER = presets.shipped("search_spaces")
KINDS = {path.stem: read_yaml(path)["kind"] for path in sorted(FOLDER.glob("*.yaml"))}
NAMES = [name for name, kind in KINDS.items() if kind == "parameter"]
THIRD = pytest.approx(1 / 3)
STARTS: dict[str, dict[str, Any]] = {
    "linear": {"weight": THIRD},
    "multislerp": {"weight": THIRD},
    "karcher": {"weight": THIRD},
    "task_arithmetic": {"weight": THIRD},
    "dare_linear": {"density": 0.5, "weight": THIRD},
    "dare_ties": {"density": 0.5, "weight": THIRD},
    "della": {"density": 0.7, "epsilon": 0.07, "lam": 1.1},
    "della_linear": {"density": 0.7, "epsilon": 0.07, "lam": 1.1},
    "breadcrumbs": {"density": 0.3, "gamma": 0.01, "lam": 0.4},
    "breadcrumbs_ties": {"density": 0.3, "gamma": 0.01, "lam": 0.4},
    "fisher": {"lam": THIRD},
    "ties": {"density": 0.5, "lam": 1},
    "slerp": {"t": 0.5},
    "nuslerp": {"weight": 0.5},
    "model_stock": {"lines_alpha": 1},
    "sce": {"select_topk": 0.1, "lam": 1},
    "varm": {"q": 2, "lam": 1},
    "nearswap": {"t": 1e-4},
    "arcee_fusion": {"iqr_factor": 1.5},
    "ram": {"epsilon": 1e-5},
    "ramplus": {"epsilon": 1e-5, "r": 0.1, "alpha": 1},
    "widen": {"above_average_ratio": 1, "calibration": 1},
    "consensus_ta": {"lam_mask": 0.4, "k": 2, "alpha": 0.4},
    "emr": {"lam": 0.4},
    "tsvm": {"alpha": 1},
    "iso_c": {"alpha": 1},
    "iso_cts": {"alpha": 1, "common_space_fraction": 0.8},
    "knots_ties": {"density": 1, "lam": 0.6},
    "opcm": {"alpha": 0.5},
    "pcb": {"ratio": 0.1, "lam": 1.1},
    "regmean": {"offdiag": 0.9, "coeff": THIRD},
    "ota": {"power": 0.5, "density": 0.4},
    "adamerging": {"coefficient": pytest.approx(0.3)},
    "mwa": {"penalty": 1},
    "lines": {"lines_alpha": THIRD, "lines_beta": 0.5},
    "compeft": {"density": 0.2, "alpha": 1},
}


def load(name: str) -> ParameterSpace:
    """The preset, on three sources or as many as its operator takes."""
    keys = read_yaml(FOLDER / f"{name}.yaml")
    assert keys.pop("kind") == "parameter"
    found = registry.find("spaces", "parameter", ParameterSpace)
    valid = registry.validate_options(found, keys, name)
    operator = keys["operator"]
    most = None if isinstance(operator, list) else operators.get(operator).sources
    sources = {key: f"/{key}" for key in "abc"[: most or 3]}
    return found(SearchContext(base="/base", sources=sources, layers=8, dtype="float32"), **valid)


def applied(recipe: Recipe) -> Tensor:
    """What the recipe's operator makes of small tensors, at the settings of one of them."""
    operator = operators.get(recipe.operator)
    place: dict[str, Any] = {"role": "mlp", "layer": 5, "tensor": "model.layers.5.mlp.up.weight"}
    settings: dict[str, Any] = {}
    for name in recipe.parameters:
        each = [recipe.setting(name, source, **place) for source in recipe.sources]
        settings[name] = each if name in operator.per_source else each[0]
    generator = torch.Generator().manual_seed(0)
    base, *sources = (torch.randn(6, 5, generator=generator) for _ in range(len(each) + 1))
    recorded: dict[str, Any] = {}
    if operator.statistics:
        square = operator.statistics == "grams"
        one = torch.eye(5) if square else torch.rand(6, 5, generator=generator)
        recorded[operator.statistics] = [one] * len(sources)
    found: Tensor = operators.apply(
        operator.name, base=base, sources=sources, **settings, **recorded
    )
    return found


def at_end(gene: Parameter, *, last: bool) -> Gene:
    match gene.kind:
        case "bool":
            return last
        case "choice":
            return gene.choices[-1 if last else 0]
        case _:
            return gene.high if last else gene.low


@pytest.mark.parametrize("name", KINDS)
def test_a_preset_says_what_is_searched(name: str) -> None:
    first = (FOLDER / f"{name}.yaml").read_text("utf-8").split("\n", 1)[0]
    assert first.startswith("# ") and first.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_starts_at_a_recipe_that_its_operator_takes(name: str) -> None:
    space = load(name)
    recipe = space.decode(space.initial())
    assert Recipe.from_canonical_json(recipe.canonical_json()) == recipe
    assert applied(recipe).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_search_may_start_at_each_of_the_points_of_a_preset(name: str) -> None:
    space = load(name)
    starts = space.starts(["b", "a"])
    assert starts[0] == ("initial", space.initial())
    assert len({repr(start.genome) for start in starts}) == len(starts)
    for _, genome in starts:
        for gene in space.parameters:
            value, choices = genome.genes[gene.name], gene.choices or (False, True)
            numbers = gene.kind in ("float", "int")
            assert gene.low <= value <= gene.high if numbers else value in choices
        assert applied(space.decode(genome)).isfinite().all()


def settings(space: ParameterSpace, *best_first: str) -> dict[str, dict[str, Any]]:
    """Label to the settings of every start."""
    return {s.label: space.decode(s.genome).parameters for s in space.starts(best_first)}


def test_a_source_alone_is_tried_as_a_start_and_the_best_one_first() -> None:
    starts = settings(load("task_arithmetic"), "c", "a")
    alone = [label for label in starts if label.endswith("alone")]
    assert alone == ["c alone", "a alone", "b alone"]
    assert starts["c alone"] == {"weight": {"a": 0, "b": 0, "c": 1}}
    assert starts["all but b"] == {"weight": {"a": 0.7, "b": 0, "c": 0.7}}
    assert starts["0.5 of each"] == {"weight": 0.5}
    assert list(starts)[:4] == [
        *("initial", "task_arithmetic, paper's defaults", "c alone", "c leading")
    ]


def test_starts_have_the_density_of_the_paper_and_a_source_alone_is_whole() -> None:
    starts = settings(load("ties_by_block"))
    assert starts["a leading"]["density"] == starts["0.7 of each"]["density"] == 0.2
    assert starts["a alone"] == {
        "density": 1,
        "normalize": False,
        "weight": {"a": 1, "b": 0, "c": 0},
    }


def test_of_weights_that_are_averaged_only_the_ratios_make_another_start() -> None:
    for name in ("linear_by_block", "linear", "karcher", "fisher", "regmean"):
        labels = [label.split(",")[0] for label in settings(load(name))]
        assert not [label for label in labels if "of each" in label], name
        assert len(labels) == 1 + 3 * 3, name


def test_a_scale_of_all_sources_is_tried_where_they_have_no_weights() -> None:
    assert {label: found["lam"] for label, found in settings(load("breadcrumbs")).items()} == {
        "initial": 0.4,
        "breadcrumbs, paper's defaults": 0.2,
        "1/3 of each": THIRD,
        "0.5 of each": 0.5,
        "0.7 of each": 0.7,
    }
    # a third of each is what an average has at 1
    of_average = {label: found["lam"] for label, found in settings(load("varm")).items()}
    assert of_average == {"initial": 1, "0.5 of each": 1.5, "0.7 of each, within the bounds": 2}


def test_a_pair_starts_at_either_end_and_between() -> None:
    starts = {label: found["t"] for label, found in settings(load("slerp"), "b").items()}
    assert starts == {
        "initial": 0.5,
        "b alone": 1,
        "b leading": pytest.approx(1 / 1.3),
        "a alone": 0,
        "a leading": pytest.approx(0.3 / 1.3),
    }


def test_every_operator_that_is_searched_has_starts_of_its_own() -> None:
    space = load("operators")
    names = space.operators
    starts = space.starts(["b"])[:24]
    used = [space.decode(genome).operator for _, genome in starts]
    assert used[:10] == [*names, *names]  # initial, then papers' defaults
    assert [label for label, _ in starts[10:15]] == [f"{name}, b alone" for name in names]
    assert all(used.count(name) >= 4 for name in names)


def weighted(low: float, high: float, **fixed: Any) -> ParameterSpace:
    keys = {"operator": "task_arithmetic", "parameters": {"weight": {"low": low, "high": high}}}
    sources = {key: f"/{key}" for key in "abc"}
    context = SearchContext(base="/base", sources=sources, layers=8, dtype="float32")
    keys["parameters"] |= fixed  # type: ignore[operator]
    return ParameterSpace(context, **registry.validate_options(ParameterSpace, keys, "space"))


def test_starts_are_the_same_merges_whatever_the_weights_are_measured_in() -> None:
    own = settings(weighted(0, 1.5))
    del own["initial"], own["task_arithmetic, paper's defaults"]
    assert own.items() <= settings(weighted(-1, 3)).items()
    halved = settings(weighted(0, 3, lam=0.5))
    for label, found in own.items():
        weights, halves = found["weight"], halved[label]["weight"]
        if isinstance(weights, dict):
            assert {name: 2 * weight for name, weight in weights.items()} == halves
        else:
            assert 2 * weights == halves


def test_starts_beyond_the_bounds_are_moved_to_them_and_say_so() -> None:
    starts = settings(weighted(0.4, 0.6))
    assert list(starts) == [
        "initial",
        "task_arithmetic, paper's defaults, within the bounds",
        "a alone, within the bounds",
        "all but c, within the bounds",
        "0.7 of each, within the bounds",
        "b alone, within the bounds",
        "all but b, within the bounds",
        "c alone, within the bounds",
        "all but a, within the bounds",
    ]
    assert starts["a alone, within the bounds"] == {"weight": {"a": 0.6, "b": 0.4, "c": 0.4}}


def test_the_order_of_sources_may_start_with_the_best_or_end_with_it() -> None:
    space = load("opcm")
    found = {s.label: list(space.decode(s.genome).sources) for s in space.starts(["c", "a", "b"])}
    assert found == {
        "initial": ["a", "b", "c"],
        "best first": ["c", "a", "b"],
        "best last": ["b", "a", "c"],
    }


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_an_operator_takes_both_ends_of_every_gene(name: str, last: bool) -> None:
    space = load(name)
    genome = Genome({gene.name: at_end(gene, last=last) for gene in space.parameters})
    assert applied(space.decode(genome)).isfinite().all()


@pytest.mark.parametrize("name", STARTS)
def test_a_preset_starts_where_the_field_would(name: str) -> None:
    recipe = load(name).decode(load(name).initial())
    found = {
        key: {recipe.setting(key, source, "mlp", 5, "") for source in recipe.sources}
        for key in STARTS[name]
    }
    assert all(len(values) == 1 for values in found.values())
    assert {key: values.pop() for key, values in found.items()} == STARTS[name]


def test_operators_worth_searching_have_a_preset_and_experimental_ones_none() -> None:
    experimental = {n for n in registry.names("operators") if operators.get(n).experimental}
    # no gene: a scale for single sources, a mask for one source, a table that was learned
    without = experimental | {"passthrough", "ffg", "expert_merging", "segments"}
    assert set(registry.names("operators")) - set(NAMES) == without


def test_weights_and_their_scale_are_never_both_free() -> None:
    for name in NAMES:
        free = {gene.name.partition(".")[0] for gene in load(name).parameters}
        assert not {"weight", "lam"} <= free, name


@pytest.mark.parametrize(
    ("name", "genes", "start", "deepest"),
    [
        ("dataflow", 22 + 23, ["base 0", "base 1", "base 2", "base 3"], 24),
        ("layer_pruning", 2, ["base 0", "base 1", "base 2", "base 3"], 4),
        ("layer_shuffle", 2, ["base 0", "base 1", "base 2", "base 3"], 4),
        ("depth_upscaling", 4, ["base 0", "base 1", "base 2", "base 1", "base 2", "base 3"], 8),
    ],
)
def test_presets_of_stacks_start_where_the_field_would(
    name: str, genes: int, start: list[str], deepest: int
) -> None:
    keys = read_yaml(FOLDER / f"{name}.yaml")
    assert keys.pop("kind") == "dataflow"
    space = DataflowSpace(
        SearchContext(base="/base", sources={"a": "/a"}, layers=4, dtype="float32"),
        **registry.validate_options(DataflowSpace, keys, name),
    )
    recipe = space.decode(space.initial())
    found = [f"{n} {first}" for s in recipe.slices for n, (first, _) in s.items()]
    assert (len(space.parameters), found, recipe.scales) == (genes, start, ())
    assert space.largest().depth == deepest


def test_the_preset_of_both_starts_at_a_merge_in_its_own_order() -> None:
    keys = read_yaml(FOLDER / "joint.yaml")
    assert keys.pop("kind") == "joint"
    space = JointSpace(
        SearchContext(base="/base", sources={"a": "/a", "b": "/b"}, layers=4, dtype="float32"),
        **registry.validate_options(JointSpace, keys, "joint"),
    )
    recipe = space.decode(space.initial())
    assert [slice_["b"] for slice_ in recipe.slices] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert (recipe.operator, recipe.parameters) == ("task_arithmetic", {"weight": 0.5})
    assert len(space.parameters) == 2 * 4 + (8 - 2) + (8 - 1)
    assert space.largest().depth == 8


def test_the_preset_of_crossover_starts_at_a_source(zoo: Path) -> None:
    keys = read_yaml(FOLDER / "crossover.yaml")
    found = registry.find("spaces", keys.pop("kind"), CrossoverSpace)
    sources = {name: str(zoo / name) for name in ("arithmetic", "strings")}
    context = SearchContext(
        base=str(zoo / "base"),
        sources=sources,
        layers=4,
        dtype="float32",
        models=Library().open(str(zoo / "base"), sources),
    )
    space = found(context, **registry.validate_options(found, keys, "crossover"))
    recipe = space.decode(space.initial())
    assert (recipe.operator, list(recipe.sources)) == ("linear", ["arithmetic"])
    assert [gene.name for gene in space.parameters] == ["source", "split[all]", "ratio[all]"]
