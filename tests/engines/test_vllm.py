"""The vllm engine against vLLM itself, started on the checkpoint that is built from a recipe."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
from two_layouts import FAMILIES, LAYOUTS, made

from evomerge.engines import LmEvalOptions, _vllm_start
from evomerge.errors import ConfigError, PlanError, SearchError
from evomerge.plugins import registry
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness
from evomerge.scoring.lm_eval import LmEvalScorer
from evomerge.scoring.tasks import task_manager
from evomerge.weights.build import build
from evomerge.weights.library import Library

if importlib.util.find_spec("vllm") is None:
    pytest.skip("needs vllm", allow_module_level=True)

from evomerge.engines.vllm import VllmEngine

if TYPE_CHECKING:
    from lm_eval.api.model import LM

pytestmark = pytest.mark.xdist_group("vllm")  # which takes seconds to be imported
ROOT = Path(__file__).parents[2]
ZOO = ROOT / "experiments" / "zoo"
TASKS = str(ROOT / "tests" / "scoring" / "tasks")
ZOO_TASKS = str(ROOT / "fitness" / "zoo_skills")
ALONE = "EVOMERGE_TESTS_ALONE"  # set in a process that a test has made for itself
CACHE = {"kv_cache_memory_bytes": 1 << 26}
# Longer than a block of the prefix cache, of 128 tokens; all begin alike.
LONG = [("12+34=46;" * 16)[:140] + end for end in ("7+8=", "rev ab=", "3*3=")]
SHORT = ["12+5=", "rev abc=", "9-4="]
WORDS = [" ".join(f"w{n % 35}" for n in range(140)) + end for end in ("", " w1", " w7")]


class Answers(NamedTuple):
    """Greedy texts, and log-likelihoods of fixed continuations."""

    texts: list[str]
    likelihoods: list[float]


def ask(lm: LM, prompts: Sequence[str] = (*LONG, *SHORT), ends: str = "15 cba") -> Answers:
    from lm_eval.api.instance import Instance

    def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
        return [Instance(request_type=kind, doc={}, arguments=a, idx=0) for a in arguments]

    until = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    pairs = [(prompt, end) for prompt in prompts for end in ends.split(" ")]
    scored = requests("loglikelihood", pairs)
    return Answers(
        lm.generate_until(requests("generate_until", [(p, dict(until)) for p in prompts])),
        [found for found, _ in lm.loglikelihood(scored)],
    )


def fresh(engine: VllmEngine, recipe: Recipe, out: Path) -> LM:
    """lm-eval's own model with a vLLM of its own, which reads the weights from the disk."""
    from lm_eval.api.registry import get_model

    checkpoint = build(recipe, out)
    itself = Library().open(str(checkpoint), {"itself": str(checkpoint)})
    arguments = engine.lm_eval_arguments(itself)
    found: Any = get_model("vllm")(pretrained=str(checkpoint), **_values(arguments["model_args"]))
    # its end would be the end of every other vLLM of this process: it comes with the last one's
    _vllm_start._stopped.append(found.model)
    return cast("LM", found)


def _values(model_args: dict[str, str]) -> dict[str, Any]:
    """The words of a command line as `lm_eval` reads them."""
    from lm_eval.utils import handle_arg_string

    return {name: handle_arg_string(value) for name, value in model_args.items()}


class Live(NamedTuple):
    """An open engine and what its recipes draw on."""

    engine: VllmEngine
    base: str
    sources: dict[str, str]

    def recipe(self, operator: str = "task_arithmetic", **keys: Any) -> Recipe:
        whole = {"base": self.base, "sources": self.sources, "operator": operator}
        return Recipe.model_validate({"dtype": "bfloat16", **whole, **keys})

    def load(self, recipe: Recipe, *asked: Any) -> Answers:
        self.engine.load(Library().plan(recipe))
        return ask(self.engine.lm, *asked)


def zoo_engine(cache: dict[str, Any] = CACHE, **options: Any) -> Iterator[Live]:
    sources = {name: str(ZOO / name) for name in ("arithmetic", "strings", "kanji")}
    engine = VllmEngine(vllm=cache, threads=1, **options)
    engine.open(Library().open(str(ZOO / "base"), sources))
    yield Live(engine, str(ZOO / "base"), sources)
    engine.close()


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    yield from zoo_engine()


SHALLOW = [{"arithmetic": [0, 2]}, {"strings": [3, 4]}]
DEEP = [{"arithmetic": [0, 3]}, {"strings": [1, 4]}]


def test_several_candidates_answer_as_fresh_engines_on_their_checkpoints(
    live: Live, tmp_path: Path
) -> None:
    weights = {"arithmetic": 0.9, "strings": {"mlp": 0.7, "other": 0.2}, "kanji": 0.3}
    recipes = {
        "task arithmetic": live.recipe(parameters={"weight": weights}),
        "ties": live.recipe("ties", parameters={"density": 0.4, "weight": 1.0}),
        "three blocks": live.recipe("linear", slices=SHALLOW),
        "four again": live.recipe("dare_linear", parameters={"density": 0.5}, seed=3),
        "six blocks": live.recipe("linear", slices=DEEP),
        "four in six": live.recipe("linear", dtype="float32"),
    }
    seen = []
    for name, recipe in recipes.items():
        found = live.load(recipe)
        theirs = ask(fresh(live.engine, recipe, tmp_path / name))
        assert found.texts == theirs.texts, name
        assert found.likelihoods == pytest.approx(theirs.likelihoods, abs=1e-5, rel=0), name
        seen.append(tuple(found.likelihoods))
    assert len(set(seen)) == len(recipes)
    assert tuple(live.load(recipes["ties"]).likelihoods) == pytest.approx(seen[1], abs=1e-5)


# One block a hop; between them what the residual stream is multiplied by.
PATHS: dict[str, tuple[list[tuple[str, int]], list[float]]] = {
    "eight, scaled": (
        [(name, block) for name in ("arithmetic", "strings") for block in range(4)],
        [1.0, 1.1, 0.9, 1.2, 0.8, 1.05, 0.95, 1.1],
    ),
    "three": ([("arithmetic", 0), ("strings", 2), ("arithmetic", 3)], []),
    "repeats, turned": (
        [("arithmetic", 0), *[("strings", 1)] * 3, ("arithmetic", 2), ("arithmetic", 3)],
        [0.9, -1.1, 0.8, 1.2, 1.0, 0.9],
    ),
    "merged, turned twice": (
        [("arithmetic", 0), ("both", 1), ("both", 2), ("both", 2), ("arithmetic", 3)],
        [1.0, -0.9, 1.1, -1.2, 0.8],
    ),
    "four": ([("arithmetic", block) for block in range(4)], [1.0, 0.9, 1.0, 1.0]),
}


def stack(live: Live, name: str, **keys: Any) -> Recipe:
    hops, scales = PATHS[name]
    given = {"both": ("arithmetic", "strings")}
    slices = [{n: [block, block + 1] for n in given.get(one, (one,))} for one, block in hops]
    whole = {"base": live.sources["arithmetic"], "slices": slices, "scales": scales}
    return live.recipe("linear", **{"dtype": "float32", **whole, **keys})


def explicit(recipe: Recipe, out: Path) -> LM:
    """Transformers on the unscaled stack, the stream multiplied before each block."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    build(recipe.model_copy(update={"scales": ()}), out)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    for block, scale in zip(model.model.layers, recipe.scales, strict=False):
        block.register_forward_pre_hook(lambda _, args, s=scale: (args[0] * s, *args[1:]))
    lm: LM = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(out), batch_size=1)
    return lm


def blocks_run(engine: VllmEngine) -> int:
    assert engine._llm is not None
    return int(engine._llm.apply_model(lambda model: model.model.end_layer)[0])


def test_one_engine_of_the_deepest_stack_answers_every_path_as_it_is_written(
    live: Live, tmp_path: Path
) -> None:
    first = live.load(stack(live, "eight, scaled"))
    vllm = live.engine.lm
    for name in [*PATHS, "eight, scaled"]:
        recipe = stack(live, name)
        found = live.load(recipe)
        assert blocks_run(live.engine) == recipe.depth
        theirs = ask(explicit(recipe, tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"))
        assert found.texts == theirs.texts, name
        assert found.likelihoods == pytest.approx(theirs.likelihoods, rel=1e-4), name
    assert found == first
    assert live.engine.lm is vllm  # which was started once for all


def test_a_path_answers_as_a_fresh_vllm_on_its_checkpoint_does(live: Live, tmp_path: Path) -> None:
    live.load(stack(live, "eight, scaled"))
    recipe = stack(live, "repeats, turned", dtype="bfloat16")
    found = live.load(recipe)
    theirs = ask(fresh(live.engine, recipe, tmp_path / "out"))
    assert found.texts == theirs.texts
    assert found.likelihoods == pytest.approx(theirs.likelihoods, abs=1e-5, rel=0)


def test_blocks_that_a_path_lacks_are_the_identity_where_they_are_computed(live: Live) -> None:
    live.load(stack(live, "eight, scaled"))
    found = live.load(stack(live, "three"))

    def run_all(model: Any) -> None:
        model.model.end_layer = len(model.model.layers)

    assert live.engine._llm is not None
    live.engine._llm.apply_model(run_all)
    assert ask(live.engine.lm) == found


def test_a_request_that_fails_leaves_nothing_to_the_next_candidate(live: Live) -> None:
    from vllm.exceptions import VLLMValidationError

    recipe = live.recipe("linear")
    before = live.load(recipe)
    lm: Any = live.engine.lm
    with pytest.raises(VLLMValidationError, match="out of vocabulary"):
        lm._model_generate([[5, 6, 7], [10**6]])  # the first waits when the second is refused
    assert live.load(recipe) == before


def test_a_load_that_breaks_off_restarts_vllm_for_the_next_candidate(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = live.recipe("linear")
    before, vllm = live.load(recipe), live.engine._llm
    assert vllm is not None

    def lost(*_: object, **__: object) -> None:
        raise ConnectionError("a rank has gone")

    with monkeypatch.context() as broken:
        broken.setattr(vllm, "collective_rpc", lost)
        with pytest.raises(ConnectionError):
            live.load(live.recipe("ties"))
    assert live.load(recipe) == before
    assert live.engine._llm is not vllm


def test_a_request_left_over_keeps_no_cached_answers_for_the_next_candidate(live: Live) -> None:
    from vllm import SamplingParams

    one, other = live.recipe("linear"), live.recipe("ties", parameters={"density": 0.4})
    before = live.load(other)
    assert live.load(one) != before
    lm: Any = live.engine.lm
    vllm = lm.model.llm_engine
    endless = SamplingParams(max_tokens=99, ignore_eos=True)
    vllm.add_request("left over", {"prompt_token_ids": [5] * 130}, endless)
    vllm.step()
    assert not vllm.reset_prefix_cache()
    assert live.load(other) == before


def test_a_candidate_too_deep_for_the_memory_leaves_the_engine_to_the_next() -> None:
    # keys and values of 256 tokens take 256 KiB a block: 1 MiB for four, 3 MiB for twelve
    for tight in zoo_engine({"kv_cache_memory_bytes": 2_900_000}):
        recipe = tight.recipe("linear")
        before = tight.load(recipe, SHORT)
        with pytest.raises(PlanError, match="vLLM cannot start this model"):
            tight.load(tight.recipe("linear", slices=[{"arithmetic": [0, 4]}] * 3))
        assert tight.load(recipe, SHORT) == before


def test_a_vllm_that_cannot_start_again_is_the_machines_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for engine in zoo_engine():
        recipe = engine.recipe("linear")
        before = engine.load(recipe, SHORT)
        with monkeypatch.context() as broken:
            broken.setattr(tempfile, "tempdir", str(tmp_path / "unmounted"))
            for blocks in (4, 4, 2):  # twice more than the run's, then as many
                lost = engine.recipe("linear", slices=[{"arithmetic": [0, blocks]}] * 2)
                with pytest.raises(SearchError, match=r"cannot start again on .* No such file"):
                    engine.load(lost, SHORT)
        assert engine.load(recipe, SHORT) == before


def test_an_engine_without_graphs_compiles_nothing_and_leaves_the_compiler_to_others(
    live: Live,
) -> None:
    import torch
    from torch._dynamo.testing import CompileCounter
    from torch._dynamo.utils import counters

    counters.clear()
    live.load(live.recipe("linear"), SHORT)
    assert not counters["frames"]
    assert not {"TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"} & os.environ.keys()
    graphs = CompileCounter()
    assert torch.compile(torch.square, backend=graphs)(torch.full((2,), 3.0)).tolist() == [9, 9]
    assert graphs.frame_count == 1


def test_two_ranks_answer_as_one_engine_does(live: Live) -> None:
    recipe = live.recipe("ties", parameters={"density": 0.4})
    alone = live.load(recipe)
    for two in zoo_engine(tensor_parallel_size=2):
        for _ in range(2):
            two.load(two.recipe("linear"))
            found = two.load(recipe)
            assert found.texts == alone.texts
            # each rank sums its own part
            assert found.likelihoods == pytest.approx(alone.likelihoods, abs=1e-4)


@pytest.mark.slow
def test_ranks_that_ctrl_c_ends_too_end_the_run_and_leave_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        others = multiprocessing.active_children()  # of engines whose end waits for the last one
        for two in zoo_engine(tensor_parallel_size=2):
            two.load(two.recipe("linear"))
            ranks = [p for p in multiprocessing.active_children() if p not in others]
            assert len(ranks) == 2
            for rank in ranks:
                maps = Path(f"/proc/{rank.pid}/maps").read_text().splitlines()
                shared = [line for line in maps if "-cpushm_" in line]
                # vLLM's kernels for AVX2 have no memory that ranks share
                assert shared or "avx512f" not in Path("/proc/cpuinfo").read_text()
                assert all(line.endswith("(deleted)") for line in shared)

            def interrupted(*_: object, ranks: Any = ranks, **__: object) -> None:
                for rank in ranks:
                    os.kill(rank.pid or 0, signal.SIGINT)
                    rank.join()
                raise KeyboardInterrupt

            monkeypatch.setattr(two.engine._llm, "generate", interrupted)
            with pytest.raises(KeyboardInterrupt):
                ask(two.engine.lm, SHORT)
        left = [place.name for place in Path(folder).iterdir()]
    assert not [name for name in left if not name.startswith("torchinductor")]


def windowed(tiny: Callable[..., Path], out: Path) -> str:
    """A Gemma whose first block sees four tokens back, and its second all."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(tiny(), out)
    config = AutoConfig.for_model(
        "gemma3_text",
        **{"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 32},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 40},
        **{"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        **{"max_position_embeddings": 256, "query_pre_attn_scalar": 32},
    )
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(out)
    return str(out)


def test_a_stack_whose_kinds_of_attention_follow_each_other_otherwise_is_served(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    base = windowed(tiny, tmp_path / "base")
    engine = VllmEngine(vllm=CACHE)
    engine.open(Library().open(base, {"a": base}))
    live = Live(engine, base, {"a": base})
    seen = [engine.lm]
    for path in ((1, 0, 0), (1, 0)):
        slices = [{"a": [block, block + 1]} for block in path]
        scales = [0.9, -1.1, 1.2][: len(path)]
        recipe = live.recipe("linear", slices=slices, scales=scales, dtype="float32")
        found = live.load(recipe, WORDS, "\tw4 \tw9")
        theirs = ask(explicit(recipe, tmp_path / str(path)), WORDS, "\tw4 \tw9")
        assert [plain(text) for text in found.texts] == [plain(text) for text in theirs.texts]
        assert found.likelihoods == pytest.approx(theirs.likelihoods, rel=1e-4), path
        seen.append(engine.lm)
    assert seen[0] is not seen[1] is seen[2]  # restarted, once
    engine.close()


def plain(text: str) -> list[str]:
    """Words that are no special tokens: Transformers leaves those out."""
    return [word for word in text.split() if word[0] != "<"]


@pytest.mark.parametrize("tied", [pytest.param(False, marks=pytest.mark.slow), True])
def test_packed_bfloat16_weights_answer_as_fresh_ones(
    tied: bool, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    shape = {"head_dim": 32, "hidden_size": 64, "max_position_embeddings": 256, "tied": tied}
    base, *experts = (str(tiny(seed, dtype="bfloat16", **shape)) for seed in range(3))
    sources = dict(zip("ab", experts, strict=True))
    engine = VllmEngine(dtype="bfloat16", vllm=CACHE)
    engine.open(Library().open(base, sources))
    live = Live(engine, base, sources)
    seen = []
    whole = [{"a": [0, 3], "b": [0, 3]}]
    turned = {"slices": [{"a": [0, 1], "b": [0, 1]}, {"b": [2, 3]}], "scales": [-0.8, 1.3]}
    for weight, keys in ((0.2, {}), (0.9, turned), (0.5, {"slices": whole})):
        parameters = {"weight": {"a": weight, "b": 1 - weight}}
        recipe = live.recipe("linear", parameters=parameters, **keys)
        asked = (WORDS, "\tw4 \tw9\tw12")  # any white space parts words
        found = live.load(recipe, *asked)
        assert found == ask(fresh(engine, recipe, tmp_path / str(weight)), *asked)
        seen.append(tuple(found.likelihoods))
    assert len(set(seen)) == 3
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("ours", LAYOUTS)
def test_experts_in_either_layout_answer_as_fresh_ones(
    ours: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    if ALONE not in os.environ:
        # vLLM makes the groups of a process once, and those of experts for such models alone
        name = f"{__file__}::test_experts_in_either_layout_answer_as_fresh_ones[{ours}]"
        command = [sys.executable, "-m", "pytest", "-q", name]
        done = subprocess.run(
            command, env={**os.environ, ALONE: "1"}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
        return
    family = FAMILIES["mixtral"]
    wide = {"hidden_size": 128, "intermediate_size": 128, "max_position_embeddings": 256}
    family = family._replace(keys={**family.keys, **wide})
    folders = [
        LAYOUTS[how](made(family, 0), tmp_path / f"{n}") for n, how in enumerate(("files", ours))
    ]
    folders += [save(made(family, 1), tmp_path / how) for how, save in LAYOUTS.items()]
    for folder in folders:
        for file in tiny(0).glob("tokenizer*"):
            shutil.copy(file, folder)
    readable, base, files, memory = map(str, folders)
    engine = VllmEngine(dtype="float32", vllm=CACHE)
    live = Live(engine, base, {"files": files, "memory": memory})
    engine.open(Library().open(base, live.sources))
    for weight in (0.2, 0.6):
        parameters = {"weight": {"files": weight, "memory": 0.9 - weight}}
        recipe = live.recipe(parameters=parameters, dtype="float32")
        asked = (WORDS, "\tw4 \tw9\tw12")
        found = live.load(recipe, *asked)
        # vLLM itself reads the layout of files alone
        again = recipe.model_copy(update={"base": readable})
        assert found == ask(fresh(engine, again, tmp_path / str(weight)), *asked)
    engine.close()


def fitness(path: str, task: str, **keys: Any) -> Fitness:
    return Fitness.model_validate({"include_path": path, "tasks": {"x": {"task": task, **keys}}})


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VllmEngine, Any]]:
    """An engine with a chat template and a recipe loaded, and stock lm-eval on its checkpoint."""
    sources = {name: str(ZOO / name) for name in ("arithmetic", "strings")}
    recipe = Recipe.model_validate(
        {
            **{"base": str(ZOO / "base"), "sources": sources, "operator": "task_arithmetic"},
            **{"parameters": {"weight": 0.8}, "dtype": "bfloat16", "chat_template": "chatml"},
        }
    )
    # so few tokens a step that prompts are read in parts
    engine = VllmEngine(vllm={**CACHE, "max_num_batched_tokens": 256}, threads=1, seed=5)
    engine.open(Library().models(recipe))
    engine.load(Library().plan(recipe))
    stock = fresh(engine, recipe, tmp_path_factory.mktemp("chat") / "built")
    yield engine, stock
    engine.close()


TASK_OPTIONS: dict[str, dict[str, Any]] = {
    "as the task is": {},
    "chat": {"apply_chat_template": True, "num_fewshot": 2, "system_instruction": "12"},
    "stop": {"gen_kwargs": {"until": ["3"], "max_gen_toks": 6}},
}
# Each option with a task that it changes, and each task, in `make test`.
FEW = {("choice", "chat"), ("perplexing", "as the task is")}
FEW |= {("shots", "stop"), ("zoo_strings", "as the task is")}


@pytest.mark.parametrize(
    ("path", "task", "asked"),
    [
        pytest.param(
            *(path, task, asked),
            marks=[] if (task, asked) in FEW else pytest.mark.slow,
            id=f"{task}, {asked}",
        )
        for path, task in (
            *((ZOO_TASKS, "zoo_strings"), (TASKS, "choice")),
            *((TASKS, "perplexing"), (TASKS, "shots")),
        )
        for asked in TASK_OPTIONS
    ],
)
def test_metrics_are_those_of_simple_evaluate_with_its_own_vllm(
    path: str, task: str, asked: str, chat: tuple[VllmEngine, Any]
) -> None:
    from lm_eval import evaluator

    engine, stock = chat
    options = TASK_OPTIONS[asked]
    one = fitness(path, task)
    scorer = LmEvalScorer(one, "search", engine.lm, LmEvalOptions(**options))
    ours = scorer.score(engine.lm)["x"]
    given = {"fewshot_as_multiturn": True} | options
    given["gen_kwargs"] = dict(given.get("gen_kwargs", {}))  # lm-eval changes it
    theirs = evaluator.simple_evaluate(
        stock, tasks=[task], task_manager=task_manager(one), torch_random_seed=5, **given
    )
    assert theirs is not None
    metric = next(key for key in theirs["results"][task] if key.endswith(",none"))
    assert abs(ours.score) == pytest.approx(theirs["results"][task][metric], rel=1e-5)
    name = metric.split(",")[0]
    samples = sorted(theirs["samples"][task], key=lambda sample: sample["doc_id"])
    if not isinstance(samples[0][name], tuple):
        assert [abs(s) for s in ours.example_scores] == pytest.approx(
            [abs(float(sample[name])) for sample in samples], rel=1e-5
        )


def test_a_sampled_answer_is_of_its_example_and_repeat_whatever_else_is_asked(
    chat: tuple[VllmEngine, Any],
) -> None:
    engine, _ = chat
    options = LmEvalOptions(gen_kwargs={"do_sample": True, "temperature": 1.0})
    scorers = [
        LmEvalScorer(fitness(path, task), "search", engine.lm, options, engine.seed)
        for path, task in ((ZOO_TASKS, "zoo_strings"), (TASKS, "sampled"))
    ]

    def answers(examples: Sequence[int] | None = None) -> list[list[list[str]]]:
        found = []
        for scorer in scorers:
            scorer.score(engine.lm, None if examples is None else {"x": tuple(examples)})
            requests = list(scorer.requests("x").values())
            found.append([requests[i][0].resps for i in examples or range(len(requests))])
        return found

    strings, sampled = first = answers()
    assert len({one for (one,) in strings}) > 10
    assert sum(one != other for one, other in sampled) > 5
    ask(engine.lm)
    assert answers() == first
    for portion in ([5], [5, 6, 20, 31]):
        assert answers(portion) == [[every[i] for i in portion] for every in first]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"vllm": {"enable_prefix_cachin": True}},
            "engine.vllm.enable_prefix_cachin: vLLM has no such argument. "
            "Did you mean 'enable_prefix_caching'?",
        ),
        (
            {"vllm": {"max_model_len": 128}},
            "engine.vllm.max_model_len: the engine sets this itself. Set engine.max_length.",
        ),
        (
            {"lm_eval": {"aply_chat_template": True}},
            "engine.lm_eval.aply_chat_template: unknown key. Did you mean 'apply_chat_template'?",
        ),
        ({"tensor_parallel_size": 0}, "engine.tensor_parallel_size: "),
    ],
)
def test_a_wrong_key_is_refused_with_the_nearest(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        VllmEngine(**registry.validate_options(VllmEngine, options, "engine"))
    assert caught.value.problems[0].startswith(problem)


def test_wrong_keys_of_vllm_and_of_the_engine_are_reported_together() -> None:
    options = {"vllm": {"enforce_eager": True, "sed": 1, "block_size": 16}, "dtipe": "float32"}
    with pytest.raises(ConfigError) as caught:
        registry.validate_options(VllmEngine, options, "engine")
    places = [problem.partition(":")[0] for problem in caught.value.problems]
    assert places == ["engine.vllm.enforce_eager", "engine.vllm.sed", "engine.dtipe"]


def test_without_vllm_the_engine_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # what an import finds where it is not installed
    with pytest.raises(ConfigError, match=r"pip install 'evomerge\[vllm\]'"):
        VllmEngine(vllm={"block_size": 16})


ENDINGS = """
import gc, sys, weakref
from pathlib import Path
from evomerge.engines.vllm import VllmEngine
from evomerge.errors import PlanError
from evomerge.recipes import Recipe
from evomerge.weights.library import Library

base, source = sys.argv[1:]
engine = VllmEngine(threads=1, vllm={"kv_cache_memory_bytes": 2_900_000})

def plan(blocks):
    slices = [{"a": [block, block + 1]} for block in blocks]
    whole = {"base": base, "sources": {"a": source}, "operator": "linear"}
    return Library().plan(Recipe.model_validate({"dtype": "float32", **whole, "slices": slices}))

def weights():
    return weakref.ref(engine._llm.apply_model(lambda model: model)[0])

engine.open(Library().open(base, {"a": source}))
before = weights()
try:
    engine.load(plan([0, 1, 2, 3] * 3))  # which is too deep for the memory
except PlanError:
    print(before() is None)
engine.load(plan([0, 1]))
again = weights()
print(sum("LlamaForCausalLM" in str(type(o)) for o in gc.get_objects()), gc.get_freeze_count() > 0)
collect = gc.collect
engine.close()
print(again() is None, gc.get_freeze_count(), gc.collect is collect)
"""


@pytest.mark.slow
def test_a_vllm_that_ends_or_fails_to_start_leaves_no_model_in_memory() -> None:
    found = [ZOO / "base", ZOO / "arithmetic"]
    done = subprocess.run(
        [sys.executable, "-c", ENDINGS, *found], capture_output=True, text=True, check=True
    )
    # the one that runs is frozen, and not among what may be garbage
    assert done.stdout.split() == ["True", "0", "True", "True", "0", "True"]


@pytest.mark.slow
def test_without_vllm_all_but_the_engine_works() -> None:
    program = """
import sys
sys.modules["vllm"] = None  # what an import finds where it is not installed
from evomerge.engines.vllm import VllmEngine
from evomerge.errors import ConfigError, PlanError
try:
    VllmEngine()
except ConfigError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "pip install 'evomerge[vllm]'" in done.stdout
