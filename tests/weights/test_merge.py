from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge import operators
from evomerge.errors import CandidateError, CheckpointError, OperatorError, PlanError
from evomerge.plugins import registry
from evomerge.recipes import Recipe
from evomerge.weights import merge as merge_module
from evomerge.weights.library import Library
from evomerge.weights.merge import Out, merge, merge_into
from evomerge.weights.steps import Step

Tiny = Callable[..., Path]
Changed = Callable[..., Path]
# Those that need more than models are merged in tests/operators.
NAMES = [name for name in registry.names("operators") if operators.get(name).statistics is None]
RANDOM = [name for name in NAMES if operators.get(name).random]
UP = "model.layers.1.mlp.up_proj.weight"


def merged(
    base: Path, operator: str, dtype: str = "float32", seed: int = 0, **given: Any
) -> dict[str, Tensor]:
    """The merged tensors; of ``given`` the paths are sources, the others parameters."""
    recipe = Recipe.model_validate(
        {
            "base": str(base),
            "sources": {name: str(v) for name, v in given.items() if isinstance(v, Path)},
            "parameters": {name: v for name, v in given.items() if not isinstance(v, Path)},
            **{"operator": operator, "seed": seed, "dtype": dtype, "experimental": True},
        }
    )
    return dict(merge(Library().plan(recipe)))


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def counted(operator: str, **folders: Any) -> dict[str, Any]:
    """As many of the sources as the operator takes."""
    most = operators.get(operator).sources or len(folders)
    return dict(list(folders.items())[:most])


def density(operator: str, fraction: float = 0.5) -> dict[str, Any]:
    settings = {"density": fraction} if "density" in operators.get(operator).per_source else {}
    return settings | ({"method": "random"} if operator == "sparsify" else {})


def test_lines_scales_by_the_depth_of_the_block(tiny: Tiny) -> None:
    given: dict[str, Any] = {"a": tiny(1), "lines_alpha": 0.25, "lines_beta": 0.5}
    first = merged(tiny(), "task_arithmetic", **given)
    last = merged(tiny(), "task_arithmetic", lines_head="last", **given)
    expected = {0: 0.25, 1: 0.5, 2: 0.75}
    for name in (UP.replace("1", str(layer)) for layer in expected):
        scale = expected[int(name.split(".")[2])]
        assert bits(first[name]) == bits(
            merged(tiny(), "task_arithmetic", a=tiny(1), lam=scale)[name]
        )
    assert bits(first["lm_head.weight"]) != bits(last["lm_head.weight"])
    for scale, found in ((0.25, first), (0.75, last)):
        expected_head = merged(tiny(), "task_arithmetic", a=tiny(1), lam=scale)["lm_head.weight"]
        assert bits(found["lm_head.weight"]) == bits(expected_head)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
# opcm looks at the whole model, lines at the depth of the tensor's block
@pytest.mark.parametrize("operator", [n for n in NAMES if n not in (*RANDOM, "opcm", "lines")])
def test_every_tensor_is_what_the_operator_gives(tiny: Tiny, operator: str, dtype: str) -> None:
    folders = counted(operator, a=tiny(1, dtype=dtype), b=tiny(2, dtype="bfloat16"))
    found = merged(tiny(dtype=dtype), operator, dtype, **folders, **density(operator))
    base, *sources = (weights(folder) for folder in (tiny(dtype=dtype), *folders.values()))
    assert found.keys() == base.keys()
    for name, tensor in found.items():
        inputs = [source[name] for source in sources]
        role = "embedding" if "embed" in name else "head" if "lm_head" in name else "other"
        depth = int(name.split(".")[2]) / 2 if ".layers." in name else None
        place: dict[str, Any] = {"role": role, "depth": depth}
        expected = operators.apply(
            operator, base=base[name], sources=inputs, **place, **density(operator)
        )
        assert bits(tensor) == bits(expected.to(getattr(torch, dtype)))


@pytest.mark.parametrize("operator", RANDOM)
def test_every_tensor_of_a_random_operator_is_what_its_draws_give(
    tiny: Tiny, operator: str
) -> None:
    settings = {"weight": 0.5} | density(operator, 1.0)
    found = merged(tiny(), operator, a=tiny(1), b=tiny(2), **settings)
    base, *sources = (weights(tiny(seed)) for seed in range(3))
    for name, tensor in found.items():
        inputs = [source[name] for source in sources]
        # at density 1 whatever was drawn keeps everything
        expected = operators.apply(operator, base=base[name], sources=inputs, **settings)
        assert bits(tensor) == bits(expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("chosen", ["a", "b"])
def test_one_hot_weights_return_the_source_bit_for_bit(tiny: Tiny, dtype: str, chosen: str) -> None:
    folders: dict[str, Any] = {"a": tiny(1, dtype=dtype), "b": tiny(2, dtype=dtype)}
    one_hot = {name: float(name == chosen) for name in folders}
    found = merged(tiny(dtype=dtype), "linear", dtype, **folders, weight=one_hot)
    ends = merged(tiny(dtype=dtype), "slerp", dtype, **folders, t=one_hot["b"])
    for name, tensor in weights(folders[chosen]).items():
        assert bits(found[name]) == bits(tensor)
        assert bits(ends[name]) == bits(tensor)


@pytest.mark.parametrize("operator", [n for n in NAMES if operators.get(n).on == "task_vectors"])
def test_sources_equal_to_the_base_return_it_bit_for_bit(tiny: Tiny, operator: str) -> None:
    found = merged(tiny(), operator, a=tiny(), b=tiny(), **density(operator))
    assert all(bits(found[name]) == bits(tensor) for name, tensor in weights(tiny()).items())


def test_settings_by_layer_and_role_hit_exactly_their_tensors(tiny: Tiny) -> None:
    weight = {"mlp": [0.0, 1.0, 0.0], "other": 0.0}
    found = merged(tiny(), "task_arithmetic", a=tiny(1), weight=weight)
    base = weights(tiny())
    touched = {name for name, tensor in found.items() if not torch.equal(tensor, base[name])}
    assert touched == {f"model.layers.1.mlp.{m}_proj.weight" for m in ("gate", "up", "down")}


@pytest.mark.parametrize("operator", NAMES)
def test_the_same_recipe_gives_the_same_bytes_on_any_number_of_threads(
    tiny: Tiny, operator: str
) -> None:
    def once(threads: int) -> dict[str, bytes]:
        torch.set_num_threads(threads)
        found = merged(
            tiny(), operator, **counted(operator, a=tiny(1), b=tiny(2)), **density(operator)
        )
        return {name: bits(tensor) for name, tensor in found.items()}

    threads = torch.get_num_threads()
    try:
        assert once(1) == once(2) == once(2)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("operator", ["ties", "dare_ties", "opcm"])
def test_several_lanes_hand_out_the_same_stretches(
    tiny: Tiny, operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_module, "_SMALL_BYTES", 0)
    recipe = Recipe(
        base=str(tiny()),
        sources={"a": str(tiny(1)), "b": str(tiny(2))},
        operator=operator,
        parameters=density(operator),
        dtype="bfloat16",
    )
    plan = Library().plan(recipe)
    found = {step.slot.name: torch.zeros(step.slot.shape, dtype=step.dtype) for step in plan.steps}

    def into(step: Step) -> Out:
        def out(start: int, values: Tensor) -> None:
            found[step.slot.name].view(-1)[start : start + values.numel()] = values

        return out

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        merge_into(plan, into)
    finally:
        torch.set_num_threads(threads)
    assert all(bits(found[name]) == bits(tensor) for name, tensor in merge(plan))


@pytest.mark.parametrize("operator", RANDOM)
def test_random_numbers_depend_on_seed_tensor_and_source_alone(
    tiny: Tiny, changed: Changed, operator: str
) -> None:
    def without_others(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name != UP]:
            del tensors[name]

    settings: dict[str, Any] = {"weight": 0.5} | density(operator)
    reference = merged(tiny(), operator, a=tiny(1), b=tiny(2), **settings)
    turned = merged(tiny(), operator, b=tiny(2), a=tiny(1), **settings)
    assert all(torch.equal(reference[name], turned[name]) for name in reference)
    few = [changed(tiny(seed), without_others) for seed in range(3)]
    assert torch.equal(reference[UP], merged(few[0], operator, a=few[1], b=few[2], **settings)[UP])
    other_seed = merged(tiny(), operator, seed=1, a=tiny(1), b=tiny(2), **settings)
    assert all(not torch.equal(reference[n], other_seed[n]) for n in reference)
    same_weights = merged(tiny(), operator, a=tiny(1), b=tiny(1), **settings)
    once = merged(tiny(), operator, a=tiny(1), **settings | {"weight": 1.0})
    assert not torch.equal(same_weights[UP], once[UP])  # each source has masks of its own


def test_random_numbers_do_not_touch_the_global_generator(tiny: Tiny) -> None:
    before = torch.get_rng_state()
    merged(tiny(), RANDOM[0], a=tiny(1), density=0.5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("operator", NAMES)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_damaged_source_is_named_with_file_and_tensor(
    tiny: Tiny, changed: Changed, operator: str, value: str
) -> None:
    def damage(tensors: dict[str, Tensor]) -> None:
        tensors[UP][5, 5] = float(value)

    damaged = changed(tiny(1), damage)
    with pytest.raises(CheckpointError) as error:
        merged(tiny(), operator, **counted(operator, a=damaged, b=tiny(2)), **density(operator))
    found = "1 NaN and 0" if value == "nan" else "0 NaN and 1"
    assert error.value.problems == (
        f"{damaged / 'model.safetensors'}: tensor {UP} holds {found} infinite values. "
        "Drop this model or repair the file.",
    )


def test_a_damaged_base_is_named(tiny: Tiny, changed: Changed) -> None:
    def damage(tensors: dict[str, Tensor]) -> None:
        tensors[UP][5, 5] = float("nan")

    damaged = changed(tiny(), damage)
    with pytest.raises(CheckpointError, match=str(damaged)):
        merged(damaged, "task_arithmetic", a=tiny(1))


def test_values_that_the_dtype_cannot_hold_are_the_recipes_fault(tiny: Tiny) -> None:
    with pytest.raises(CandidateError, match="linear gave values that float16 cannot hold"):
        merged(tiny(), "linear", "float16", a=tiny(1), weight=1e6, normalize=False)
    merged(tiny(), "linear", "bfloat16", a=tiny(1), weight=1e6, normalize=False)


@pytest.mark.parametrize(
    ("operator", "parameters"),
    [
        ("linear", {"weight": 0.0}),
        ("linear", {"weight": 0.0, "normalize": False}),
        ("linear", {"weight": {"mlp": 0.0, "other": [0.0, 0.0, 0.0]}}),
        ("multislerp", {"weight": 0.0, "space": "weights"}),
        ("karcher", {"weight": 0.0}),
        ("passthrough", {"scale": 0.0}),
    ],
)
def test_a_plan_for_a_model_of_zeros_is_refused(
    tiny: Tiny, operator: str, parameters: dict[str, Any]
) -> None:
    sources = counted(operator, a=tiny(1), b=tiny(2))
    key = next(iter(parameters))
    with pytest.raises(PlanError) as error:
        merged(tiny(), operator, **sources, **parameters)
    assert error.value.problems == (
        f"parameters.{key}: 0 for all sources in every tensor, so that {operator} gives a model of "
        "zeros. Give one source another value.",
    )


@pytest.mark.parametrize(
    ("operator", "parameters"),
    [("linear", {}), ("passthrough", {}), ("karcher", {}), ("multislerp", {"space": "weights"})],
)
def test_models_of_zeros_merge_to_one(
    tiny: Tiny, changed: Changed, operator: str, parameters: dict[str, Any]
) -> None:
    def empty(tensors: dict[str, Tensor]) -> None:
        for tensor in tensors.values():
            tensor.zero_()

    sources = counted(operator, a=changed(tiny(1), empty), b=changed(tiny(2), empty))
    found = merged(tiny(), operator, **sources, **parameters)
    assert not any(value.any() for value in found.values())


@pytest.mark.parametrize("operator", ["task_arithmetic", "multislerp", "ties"])
def test_task_vectors_of_weight_zero_give_the_base(tiny: Tiny, operator: str) -> None:
    found = merged(tiny(), operator, a=tiny(1), b=tiny(2), weight=0.0)
    assert bits(found[UP]) == bits(weights(tiny())[UP])


@pytest.mark.parametrize("operator", [n for n in NAMES if operators.get(n).on != "task_vectors"])
def test_the_plan_knows_which_settings_give_zeros(tiny: Tiny, operator: str) -> None:
    kind = operators.get(operator)
    for space in ("weights", "task_vector") if "space" in kind.shared else (None,):
        for key, bound in kind.per_source.items():
            if bound.problem(0) is not None or operator == "mwa":  # of which 0 is no weight
                continue
            given = counted(operator, a=tiny(1), b=tiny(2)) | {key: 0.0}
            given |= {} if space is None else {"space": space}
            try:
                found = merged(tiny(), operator, **given)
            except PlanError as error:
                assert "gives a model of zeros" in str(error)
                assert key == kind.factor
            else:
                assert any(value.any() for value in found.values())


@pytest.mark.parametrize("operator", ["linear", "multislerp"])
def test_weights_of_models_that_cancel_have_no_average(tiny: Tiny, operator: str) -> None:
    settings: dict[str, Any] = {"weight": {"a": 0.5, "b": -0.5}}
    settings |= {"space": "weights"} if operator == "multislerp" else {}
    with pytest.raises(OperatorError, match=r"weights 0\.5 and -0\.5 add up to 0, by"):
        merged(tiny(), operator, a=tiny(1), b=tiny(2), **settings)


def test_tensors_and_modules_may_be_taken_times_zero(tiny: Tiny) -> None:
    found = merged(tiny(), "linear", a=tiny(1), weight={"mlp": 0.0, "other": 1.0})
    assert not found[UP].any()
    assert bits(found["lm_head.weight"]) == bits(weights(tiny(1))["lm_head.weight"])
    recipe = Recipe(
        base=str(tiny()),
        sources={"a": str(tiny(1))},
        operator="passthrough",
        parameters={"scale": 0.0},
        modules=("model.layers.1.mlp",),
        dtype="float32",
    )
    found = dict(merge(Library().plan(recipe)))
    assert not found[UP].any()
    assert bits(found["lm_head.weight"]) == bits(weights(tiny())["lm_head.weight"])


def test_what_only_a_source_of_weight_zero_has_is_taken_from_it(
    tiny: Tiny, changed: Changed
) -> None:
    extra, value = "model.rotary_emb.inv_freq", torch.arange(1.0, 5.0)
    found = merged(
        tiny(),
        "linear",
        a=tiny(1),
        b=changed(tiny(2), lambda tensors: tensors.update({extra: value})),
        weight={"a": 1.0, "b": 0.0},
    )
    assert bits(found[extra]) == bits(value)
    assert bits(found[UP]) == bits(weights(tiny(1))[UP])


@pytest.mark.parametrize("operator", ["multislerp", "karcher", "nuslerp"])
def test_what_only_one_of_weight_zero_has_is_taken_on_the_sphere_too(
    tiny: Tiny, changed: Changed, operator: str
) -> None:
    extra, value = "model.rotary_emb.inv_freq", torch.arange(1.0, 5.0)
    found = merged(
        tiny(),
        operator,
        a=tiny(1),
        b=changed(tiny(2), lambda tensors: tensors.update({extra: value})),
        weight={"a": 1.0, "b": 0.0},
        space="weights",
    )
    assert torch.allclose(found[extra], value)


def test_merging_leaves_the_sources_alone(tiny: Tiny) -> None:
    before = [(tiny(seed) / "model.safetensors").read_bytes() for seed in range(3)]
    for operator in NAMES:
        merged(tiny(), operator, **counted(operator, a=tiny(1), b=tiny(2)), **density(operator))
    assert before == [(tiny(seed) / "model.safetensors").read_bytes() for seed in range(3)]


def test_a_batch_of_tensors_comes_before_the_next_is_read(
    tiny: Tiny, changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_module, "_BATCH_BYTES", 1 << 10)

    def damage(tensors: dict[str, Tensor]) -> None:
        tensors["model.norm.weight"][0] = float("nan")

    recipe = Recipe(
        base=str(tiny()),
        sources={"a": str(changed(tiny(1), damage))},
        **{"operator": "linear", "dtype": "float32"},  # type: ignore[arg-type]
    )
    stream = merge(Library().plan(recipe))
    assert next(stream)[0] == "lm_head.weight"  # long before the damaged one is read
    with pytest.raises(CheckpointError):
        list(stream)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("operator", ["linear", "slerp", "ties", "dare_ties", "della", "sce"])
def test_a_gpu_merges_to_the_same_weights(tiny: Tiny, operator: str) -> None:
    sources = {name: str(tiny(i)) for i, name in enumerate("ab", start=1)}
    recipe = Recipe(
        base=str(tiny()),
        sources=counted(operator, **sources),
        operator=operator,
        parameters=density(operator) | ({"epsilon": 0.1} if operator == "della" else {}),
        dtype="float32",
    )
    plan = Library().plan(recipe)
    found = {step.slot.name: torch.zeros(step.slot.shape) for step in plan.steps}

    def into(step: Step) -> Out:
        def out(start: int, values: Tensor) -> None:
            assert values.device.type == "cuda"
            found[step.slot.name].view(-1)[start : start + values.numel()] = values.cpu()

        return out

    merge_into(plan, into, torch.device("cuda"))
    for name, tensor in merge(plan):
        torch.testing.assert_close(found[name], tensor)
