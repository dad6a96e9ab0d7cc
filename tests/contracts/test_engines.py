"""What every engine promises, whatever computes its answers.

An engine that needs a GPU or a library of its own says so in `NEEDS`, and is skipped without.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.engines import Engine, LanguageModelEngine, _vllm_start
from evomerge.engines.transformers import TransformersEngine
from evomerge.errors import CandidateError, CheckpointError, ConfigError, PlanError
from evomerge.plugins import registry
from evomerge.recipes import Recipe
from evomerge.weights.build import build
from evomerge.weights.library import Library
from evomerge.weights.models import Models
from evomerge.weights.plan import make_plan

if TYPE_CHECKING:
    from lm_eval.api.model import LM

Tiny = Callable[..., Path]
pytestmark = pytest.mark.xdist_group("vllm")  # which takes seconds to be imported

# Modules without which an engine cannot run, and whether it needs a GPU.
NEEDS: dict[str, tuple[tuple[str, ...], bool]] = {"vllm": (("vllm",), False)}
# Options that make answers independent of the batch, and engines small.
OPTIONS: dict[str, dict[str, Any]] = {
    "transformers": {"batch_size": 4},
    "vllm": {"vllm": {"kv_cache_memory_bytes": 1 << 24}},
}


def engines(cases: Sequence[str] = (), few: Sequence[str] = ()) -> list[Any]:
    """Every engine, with every case if there are some.

    Args:
        cases: of a test.
        few: those of them that ``make test`` runs on an engine that takes long to start.
    """
    params = []
    for name in registry.names("engines"):
        if not issubclass(registry.find("engines", name, Engine), LanguageModelEngine):
            continue  # no language model: tests/engines has what is asked of it
        modules, gpu = NEEDS.get(name, ((), False))
        lacks = [module for module in modules if importlib.util.find_spec(module) is None]
        marks = [pytest.mark.skipif(bool(lacks), reason=f"needs {', '.join(lacks)}")]
        if gpu:
            no_gpu = not torch.cuda.is_available()
            marks += [pytest.mark.gpu, pytest.mark.skipif(no_gpu, reason="needs a GPU")]
        params += [pytest.param(name, marks=marks)] if not cases else []
        for case in cases:
            slow = [pytest.mark.slow] if name in NEEDS and case not in few else []
            params.append(pytest.param(name, case, marks=[*marks, *slow]))
    return params


@pytest.fixture(scope="session")
def tiny(tiny: Tiny) -> Tiny:
    """Models whose heads are wide enough for vLLM's CPU kernels."""
    return partial(tiny, head_dim=32)


Opener = Callable[[Models], LanguageModelEngine]


@pytest.fixture(scope="module")
def opened() -> Iterator[list[LanguageModelEngine]]:
    """Engines that are closed when all tests have ended: a vLLM alone takes long to be closed."""
    engines: list[LanguageModelEngine] = []
    yield engines
    for engine in engines:
        engine.close()


@pytest.fixture(params=engines())
def opener(request: pytest.FixtureRequest, opened: list[LanguageModelEngine]) -> Opener:
    """Opens engines of one kind."""
    name = request.param
    kind = registry.find("engines", name, LanguageModelEngine)

    def make(models: Models) -> LanguageModelEngine:
        opened.append(kind(**registry.validate_options(kind, OPTIONS.get(name, {}), name)))
        opened[-1].open(models)
        return opened[-1]

    return make


class Answers(NamedTuple):
    """What a model says to fixed questions: texts, and (log-likelihood, greedy or not)."""

    texts: list[str]
    likelihoods: list[tuple[float, bool]]


def ask(lm: LM) -> Answers:
    from lm_eval.api.instance import Instance

    prompts = ["w1 w2 w3", "w30 w20", "w5", "w7 w7 w7 w7 w7 w7", "w11 w12"]

    def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
        return [
            Instance(request_type=kind, doc={}, arguments=argument, idx=index)
            for index, argument in enumerate(arguments)
        ]

    until = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}
    generation = requests("generate_until", [(prompt, dict(until)) for prompt in prompts])
    scored = [(prompt, f" w{number} w9") for prompt in prompts for number in (4, 22)]
    return Answers(
        lm.generate_until(generation, disable_tqdm=True),
        lm.loglikelihood(requests("loglikelihood", scored), disable_tqdm=True),
    )


class Pool(NamedTuple):
    """References of one merge, and the recipes that are tried on it."""

    base: Path
    sources: dict[str, Path]
    tokenizer: str | None = None

    def models(self) -> Models:
        named = {name: str(folder) for name, folder in self.sources.items()}
        return Library().open(str(self.base), named, self.tokenizer)

    def recipe(
        self, operator: str, *names: str, dtype: str = "float32", **parameters: Any
    ) -> Recipe:
        return Recipe.model_validate(
            {
                "base": str(self.base),
                "sources": {name: str(self.sources[name]) for name in names or self.sources},
                **{"operator": operator, "parameters": parameters, "dtype": dtype},
                "tokenizer": self.tokenizer,
            }
        )


def load(engine: LanguageModelEngine, models: Models, recipe: Recipe) -> Answers:
    engine.load(make_plan(recipe, models))
    return ask(engine.lm)


def rebuilt(opener: Opener, recipe: Recipe, out: Path) -> Answers:
    """The answers of a fresh engine on the checkpoint that is built from the recipe."""
    build(recipe, out)
    alone = Library().open(str(out), {"itself": str(out)})
    copied = Recipe(
        base=str(out), sources={"itself": str(out)}, operator="linear", dtype=recipe.dtype
    )
    return load(opener(alone), alone, copied)


SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
TURNED = (*SPECIAL, *(f"w{number}" for number in reversed(range(36))), "new")


def pool(tiny: Tiny, kind: str) -> Pool:
    if kind == "turned vocabulary":
        return Pool(tiny(), {"a": tiny(1, words=TURNED), "b": tiny(2)}, "base")
    if kind == "bfloat16":
        return Pool(*(tiny(dtype=kind), {n: tiny(s, dtype=kind) for n, s in (("a", 1), ("b", 2))}))
    tied = {"untied": (0, 0, 0), "tied": (1, 1, 1), "tied base": (1, 1, 0), "own": (0, 1, 1)}[kind]
    base, one, two = (tiny(seed, tied=bool(flag)) for seed, flag in enumerate(tied))
    return Pool(base, {"a": one, "b": two})


KINDS = ("untied", "tied", "tied base", "own", "turned vocabulary", "bfloat16")
SHAPES = ("union", "source", "slices", "modules", "nested", "nested union")


@pytest.mark.parametrize(
    ("opener", "kind"), engines(KINDS, few=("tied", "turned vocabulary")), indirect=["opener"]
)
def test_a_loaded_plan_answers_exactly_as_the_checkpoint_built_from_it(
    tiny: Tiny, opener: Opener, tmp_path: Path, kind: str
) -> None:
    models = pool(tiny, kind)
    opened = models.models()
    engine = opener(opened)
    by_role = {"head": 2.0, "mlp": [0.5, 1.0, 0.25], "other": 1.0}
    candidates = [
        models.recipe("linear", weight={"a": 0.3, "b": by_role}),
        models.recipe("dare_linear", "a", density=0.5, weight=by_role),
        models.recipe("ties", dtype="bfloat16", density=0.3),
        models.recipe("slerp", "b", dtype="float16", t=0.4),
    ]
    seen = []
    for number, recipe in enumerate(candidates):
        found = load(engine, opened, recipe)
        assert found == rebuilt(opener, recipe, tmp_path / str(number))
        seen.append(found)
    assert len({tuple(answers.likelihoods) for answers in seen}) == len(candidates)
    # nothing of the others is left
    assert load(engine, opened, candidates[0]) == seen[0]


@pytest.mark.parametrize(
    ("opener", "kind"), engines(SHAPES, few=("slices", "nested union")), indirect=["opener"]
)
def test_a_recipe_of_any_shape_answers_exactly_as_its_checkpoint(
    tiny: Tiny, opener: Opener, tmp_path: Path, kind: str
) -> None:
    sources: dict[str, Any] = {"a": str(tiny(1, words=TURNED)), "b": str(tiny(2))}
    whole: dict[str, Any] = {"base": str(tiny()), "operator": "linear", "dtype": "float32"}
    keys: dict[str, Any] = {"tokenizer": "a" if kind == "source" else "union"}
    if kind == "slices":
        deep = str(tiny(1, num_hidden_layers=5))
        keys = {"slices": [{"a": [2, 5]}, {"b": [0, 3]}]}
        sources["a"] = deep
    elif kind == "modules":
        keys = {"tokenizer": "base", "modules": ["model.layers.1", "lm_head"]}
    elif kind == "nested":
        inner = Recipe.model_validate({**whole, "sources": {"c": str(tiny(3))}})
        whole, sources, keys = {**whole, "base": inner}, {"b": sources["b"]}, {}
    elif kind == "nested union":
        inner = Recipe.model_validate({**whole, "sources": sources, **keys})
        whole, sources = {**whole, "base": inner, "operator": "ties"}, {"b": sources["b"]}
    recipe = Recipe.model_validate({**whole, "sources": sources, **keys})
    models = Library().models(recipe)
    assert load(opener(models), models, recipe) == rebuilt(opener, recipe, tmp_path / "out")


def test_a_failed_load_is_forgotten_by_the_next(tiny: Tiny, opener: Opener, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny(2), damaged)
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.norm.weight"][0] = float("inf")
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    models = Pool(tiny(), {"a": tiny(1), "damaged": damaged})
    opened = models.models()
    engine = opener(opened)
    good = load(engine, opened, models.recipe("linear", "a"))
    overflow = models.recipe("linear", "a", dtype="float16", weight=1e30, normalize=False)
    for recipe, error in (
        (models.recipe("linear", "damaged"), CheckpointError),
        (overflow, CandidateError),
    ):
        with pytest.raises(error):
            load(engine, opened, recipe)
        assert load(engine, opened, models.recipe("linear", "a")) == good


def test_a_plan_for_other_tensors_is_refused_rather_than_half_loaded(
    tiny: Tiny, opener: Opener
) -> None:
    mixed = Pool(tiny(tied=True), {"a": tiny(1, tied=True), "b": tiny(2)})
    engine = opener(mixed.models())
    with pytest.raises(PlanError, match=r"differ in 1 tensors, lm_head.weight first"):
        engine.load(Library().plan(mixed.recipe("linear", "a")))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model_type": "nonesuch"}, "nonesuch"),
        ({"model_type": "vit"}, "strange"),
        ({"num_hidden_layers": 4}, "model.layers.3"),
        ({"num_hidden_layers": 2}, "model.layers.2"),
        ({"intermediate_size": 96}, "mlp.up_proj.weight"),
        ({"model_type": "other", "auto_map": {"AutoConfig": "code.Config"}}, "strange"),
    ],
)
def test_an_architecture_that_the_engine_cannot_hold_is_a_plan_error(
    tiny: Tiny, opener: Opener, tmp_path: Path, config: dict[str, Any], named: str
) -> None:
    folder = tmp_path / "strange"
    shutil.copytree(tiny(), folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | config))
    (folder / "code.py").write_text("raise SystemExit('ran foreign code')")
    with pytest.raises(PlanError, match=named):
        opener(Library().open(str(folder), {"itself": str(folder)}))


def test_a_tensor_that_the_architecture_does_not_have_is_named(
    tiny: Tiny, opener: Opener, tmp_path: Path
) -> None:
    folder = tmp_path / "strange"
    shutil.copytree(tiny(), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.adapter.weight"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PlanError, match=r"model.adapter.weight"):
        opener(Library().open(str(folder), {"itself": str(folder)}))


def test_a_model_without_tokenizer_is_a_plan_error(
    tiny: Tiny, opener: Opener, tmp_path: Path
) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny(), folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(PlanError, match="cannot open its tokenizer"):
        opener(Library().open(str(folder), {"itself": str(folder)}))


def test_opening_and_loading_leave_the_global_generators_alone(tiny: Tiny, opener: Opener) -> None:
    models = Pool(tiny(), {"a": tiny(1)})
    before = torch.get_rng_state()
    opened = models.models()
    engine = opener(opened)
    engine.load(make_plan(models.recipe("dare_ties", density=0.5), opened))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_closed_engine_answers_no_more(tiny: Tiny, opener: Opener) -> None:
    engine = opener(Library().open(str(tiny()), {"a": str(tiny(1))}))
    engine.close()
    with pytest.raises(RuntimeError, match="not open"):
        _ = engine.lm


def test_plain_lm_eval_repeats_the_answers(tiny: Tiny, opener: Opener, tmp_path: Path) -> None:
    from lm_eval.api.registry import get_model

    models = Pool(tiny(), {"a": tiny(1), "b": tiny(2)})
    opened, recipe = models.models(), models.recipe("ties", density=0.3)
    engine = opener(opened)
    arguments = engine.lm_eval_arguments(opened)
    assert arguments.keys() == {"model", "model_args", "batch_size", "device"}
    plain = get_model(arguments["model"])(
        pretrained=str(build(recipe, tmp_path / "out")),
        batch_size=arguments["batch_size"],
        device=arguments["device"],
        **arguments["model_args"],
    )
    if arguments["model"] == "vllm":  # its end would be the end of every other of this process
        _vllm_start._stopped.append(plain.model)
    assert ask(plain) == load(engine, opened, recipe)


ABSENT = f"cuda:{torch.cuda.device_count()}"


@pytest.mark.parametrize(
    ("device", "problem"),
    [
        ("foo", "torch has no device 'foo'. Use cpu, cuda or auto."),
        ("", "torch has no device ''. Use cpu, cuda or auto."),
        ("meta", "torch has no device 'meta'. Use cpu, cuda or auto."),
        (ABSENT, f"'{ABSENT}' is not available here. Use cpu or auto."),
        pytest.param(
            "cuda",
            "'cuda' is not available here. Use cpu or auto.",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU"),
        ),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_anything_is_opened(
    device: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        TransformersEngine(device=device)
    assert caught.value.problems == (f"engine.device: {problem}",)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_a_cpu_computes_in_float32_however_it_is_spelled(tiny: Tiny, device: str) -> None:
    models = Library().open(str(tiny(dtype="bfloat16")), {"a": str(tiny(1, dtype="bfloat16"))})
    arguments = TransformersEngine(device=device).lm_eval_arguments(models)
    assert arguments["model_args"]["dtype"] == "float32"


@pytest.mark.parametrize(
    ("options", "ranks", "held", "expected"),
    [
        # workers elsewhere, prepared on a machine with or without GPUs
        ({}, 1, 0.0, (0, "float32")),
        ({}, 1, 0.5, (0.5, "bfloat16")),
        ({}, 1, 4.0, (1, "bfloat16")),  # of four it uses one
        ({}, 8, 8.0, (8, "bfloat16")),
        ({"dtype": "float16"}, 1, 1.0, (1, "float16")),
        ({"device": "cpu"}, 1, 1.0, (0, "float32")),
        # a worker in this process
        ({"device": "cpu"}, 8, None, (0, "float32")),
        ({"device": "cpu", "dtype": "bfloat16"}, 1, None, (0, "bfloat16")),
        pytest.param({"device": "cuda"}, 1, None, (1, "bfloat16"), marks=pytest.mark.gpu),
        pytest.param({"device": "cuda"}, 8, None, (8, "bfloat16"), marks=pytest.mark.gpu),
    ],
)
def test_weights_lie_where_the_workers_are(
    options: dict[str, Any], ranks: int, held: float | None, expected: tuple[float, str]
) -> None:
    if options.get("device") == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    engine = TransformersEngine(**options)
    engine.ranks = ranks
    assert (engine.gpus(held), engine.weights_dtype("bfloat16", held)) == expected


def test_making_an_engine_leaves_the_threads_alone() -> None:
    before = torch.get_num_threads()
    TransformersEngine(threads=before + 1)
    assert torch.get_num_threads() == before
