"""The YAML of mergekit's documentation is read, value by value as mergekit 0.1.5 reads it.

The names of the models have been replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from evomerge.errors import ExportError
from evomerge.recipes import Recipe
from evomerge.recipes.mergekit import from_documents, from_mergekit, to_mergekit
from evomerge.recipes.mergekit.methods import METHODS
from evomerge.recipes.places import Place
from evomerge.yaml_files import parse_documents, read_documents

Scopes = Sequence[Mapping[str, Any] | None]

BLOCK = {
    "input_layernorm": "norm",
    "self_attn.q_proj": "attention",
    "self_attn.q_norm": "attention",
    "self_attn.o_proj": "attention",
    "post_attention_layernorm": "norm",
    "mlp.up_proj": "mlp",
    "mlp.down_proj": "mlp",
}
TOWERS = ("vision_tower.transformer.layers.0.ffn.weight", "multi_modal_projector.linear_1.weight")


class Tensor(NamedTuple):
    """What mergekit computes one tensor of the output from.

    Attributes:
        inputs: model to the values of its own parameters, where it has some.
        shared: those that all models share.
    """

    name: str
    spot: Place
    inputs: dict[str, dict[str, Any]]
    shared: dict[str, Any]


def places(model: str, layers: int = 40) -> dict[str, Place]:
    """The tensors of a model; one whose name has ``vl`` in it sees."""
    start = "language_model." if "vl" in model else ""
    found = {f"{start}model.embed_tokens.weight": Place(None, "embedding")}
    for layer in range(layers):
        for name, role in BLOCK.items():
            found[f"{start}model.layers.{layer}.{name}.weight"] = Place(layer, role)
    found[f"{start}model.norm.weight"] = Place(None, "norm")
    found[f"{start}lm_head.weight"] = Place(None, "head")
    return found | (dict.fromkeys(TOWERS, Place(None, "other")) if start else {})


def read(name: str, tensor: str, t: float, scopes: Scopes) -> Any:
    """The value of a parameter, or None where mergekit takes its default."""
    found = (scope[name] for scope in scopes if scope and name in scope)
    return next((v for s in found if (v := _evaluate(s, tensor, t)) is not None), None)


def _evaluate(setting: Any, tensor: str, t: float) -> Any:
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return setting
    if isinstance(setting[0], dict):
        fits = (i["value"] for i in setting if i.get("filter", "*") in ("*", None)
                or i["filter"] in tensor)  # fmt: skip
        return _evaluate(next(fits, None), tensor, t)
    scaled = t * (len(setting) - 1)
    low = int(scaled)
    if isinstance(setting[0], bool):
        return setting[low]
    high = min(len(setting) - 1, low + 1)
    return (1 - (scaled - low)) * setting[low] + (scaled - low) * setting[high]


def tensors(
    content: Mapping[str, Any], per_source: Sequence[str], shared: Sequence[str], layers: int = 40
) -> Iterator[Tensor]:
    """Every tensor of the output, in the order of mergekit's planner.

    Args:
        content: a YAML with ``models`` or ``slices``.
        per_source, shared: mergekit's names of the parameters that are read.
    """
    slices = content.get("slices")
    if slices is None:
        sources = [{**model, "layer_range": [0, layers]} for model in content["models"]]
        slices = [{"sources": sources}]
    models = places(slices[0]["sources"][0]["model"], layers)
    outer = {name: spot for name, spot in models.items() if spot.layer is None}
    blocks = {name: spot for name, spot in models.items() if spot.layer == 0}

    def tensor(slice_: Mapping[str, Any], name: str, spot: Place, t: float, step: int) -> Tensor:
        rest = [slice_.get("parameters"), content.get("parameters")]
        inputs = {}
        for source in slice_["sources"]:
            own = name
            if spot.layer is not None:
                block = source["layer_range"][0] + step
                own = name.replace(f".{spot.layer}.", f".{block}.", 1)
            scopes = [source.get("parameters"), *rest]
            inputs[source["model"]] = {p: read(p, own, t, scopes) for p in per_source}
        return Tensor(name, spot, inputs, {p: read(p, name, t, rest) for p in shared})

    for name, spot in outer.items():
        if spot.role == "embedding":
            yield tensor(slices[0], name, spot, 0, 0)
    done = 0
    for slice_ in slices:
        start, end = slice_["sources"][0]["layer_range"]
        for step in range(end - start):
            t = step / (end - start - 1) if end - start > 1 else 1
            for name, spot in blocks.items():
                at = name.replace(".0.", f".{done}.", 1)
                yield tensor(slice_, at, Place(done, spot.role), t, step)
            done += 1
    for name, spot in outer.items():
        if spot.role in ("norm", "head"):
            yield tensor(slices[-1], name, spot, 0, 0)


FOLDER = Path(__file__).parent / "examples"
NAMES = [path.stem for path in sorted(FOLDER.glob("*.yaml"))]
LAYERS = 40

# those whose numbers only evomerge has: mergekit cannot divide by probabilities of being kept,
# merges no model with itself, and knows no recipe in place of a model
NOT_WRITTEN = {
    "della": "divide each element by its own probability",
    "della_linear": "divide each element by its own probability",
    "averaged-layers": "given 2 times",
    "mega": "no recipe in place of a model",
}


def documents(name: str) -> list[dict[str, Any]]:
    """The parsed YAML of an example."""
    return read_documents(FOLDER / f"{name}.yaml")


def imported(content: list[dict[str, Any]]) -> Recipe:
    """The recipe of an example."""
    return from_documents(content, "m.yaml", lambda model: LAYERS, places)


def written(one: Recipe) -> str:
    """The YAML text of a recipe."""
    tensors_ = places(str(one.base), one.depth or LAYERS)
    return to_mergekit(one, tensors_, dict.fromkeys(tensors_, (4, 4)))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_of_mergekit_is_read(name: str) -> None:
    content = documents(name)[-1]
    assert imported(documents(name)).operator == METHODS[content["merge_method"]].operator


@pytest.mark.parametrize("name", [n for n in NAMES if n not in NOT_WRITTEN])
def test_an_example_comes_back(name: str) -> None:
    one = imported(documents(name))
    again = imported(parse_documents(written(one), "m.yaml"))
    if one.operator.startswith("dare"):
        # each weight has been divided by its density
        assert again.parameters["rescale"] == "none"
        again = again.model_copy(update={"parameters": one.parameters})
    assert again == one


@pytest.mark.parametrize("name", NOT_WRITTEN)
def test_what_mergekit_cannot_say_is_refused(name: str) -> None:
    with pytest.raises(ExportError, match=NOT_WRITTEN[name]):
        written(imported(documents(name)))


def check_values(content: dict[str, Any], one: Recipe, layers: int = LAYERS) -> None:
    """Every value of a recipe is the one that mergekit reads."""
    method = METHODS[content["merge_method"]]
    own = {method.theirs(name): name for name in method.per_source}
    shared = {method.theirs(name): name for name in method.shared}
    shared.pop("rescale", None)
    names = {model: name for name, model in one.sources.items()}
    for tensor in tensors(content, list(own), list(shared), layers):
        spot = (tensor.spot.role, tensor.spot.layer or 0, tensor.name)
        for model, values in tensor.inputs.items():
            if model not in names:
                continue
            for theirs, name in own.items():
                found = one.setting(name, names[model], *spot)
                wanted = values[theirs]
                expected = method.per_source[name] if wanted is None else wanted
                assert (method.per_source[name] if found is None else found) == pytest.approx(
                    float(expected), abs=1e-12
                ), (tensor.name, model, name)
        for theirs, name in shared.items():
            found = one.setting(name, None, *spot)
            wanted = tensor.shared[theirs]
            expected = method.shared[name] if wanted is None else wanted
            assert (method.shared[name] if found is None else found) == pytest.approx(
                float(expected), abs=1e-12
            ), (tensor.name, name)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("averaged-layers", "modules")])
def test_every_tensor_has_the_values_that_mergekit_reads(name: str) -> None:
    for content in documents(name):
        alone = {key: value for key, value in content.items() if key != "name"}
        one = from_mergekit(alone, "m.yaml", lambda model: LAYERS, places)
        if name == "breadcrumbs_ties":  # there rescale: true moves the density to the modifiers
            continue
        check_values(alone, one)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in NOT_WRITTEN])
def test_what_is_written_has_these_values_too(name: str) -> None:
    one = imported(documents(name))
    content = parse_documents(written(one), "m.yaml")[0]
    if name in ("modules", "breadcrumbs_ties") or one.operator.startswith("dare"):
        return
    check_values(content, one, LAYERS)


SLICES = """
merge_method: linear
slices:
- sources:
  - {model: o/a, layer_range: [0, 4], parameters: {weight: [0.1, 0.7]}}
  - {model: o/b, layer_range: [4, 8], parameters: {weight: {filter: layers.5., value: 0.9}}}
  parameters: {weight: 0.25}
- sources:
  - {model: o/b, layer_range: [0, 3], parameters: {weight: [{filter: q_proj, value: [3, 1]}]}}
  parameters: {weight: [{filter: mlp, value: 0.5}, {filter: model.norm, value: 0.125}]}
- sources:
  - {model: o/a, layer_range: [7, 8]}
  - {model: o/b, layer_range: [0, 1]}
  parameters: {weight: [0.5, 0.75], normalize: false}
parameters: {weight: 1, normalize: [{filter: o_proj, value: false}]}
"""

SLERP = """
merge_method: slerp
base_model: o/a
slices:
- sources: [{model: o/a, layer_range: [0, 3]}, {model: o/b, layer_range: [0, 3]}]
  parameters: {t: [{filter: attn, value: [0, 1]}, {value: 0.25}]}
- sources: [{model: o/b, layer_range: [5, 8]}, {model: o/a, layer_range: [5, 8]}]
  parameters: {t: [1, 0.5]}
"""


@pytest.mark.parametrize("text", [SLICES, SLERP])
def test_slices_with_values_of_their_own_have_those_of_mergekit(text: str) -> None:
    content = parse_documents(text, "m.yaml")[0]
    one = from_mergekit(content, "m.yaml", lambda model: 8, lambda model: places(model, 8))
    check_values(content, one, 8)
    models = places("o/a", one.depth or 8)
    again = to_mergekit(one, models, dict.fromkeys(models, (4, 4)))
    check_values(parse_documents(again, "m.yaml")[0], one, 8)
