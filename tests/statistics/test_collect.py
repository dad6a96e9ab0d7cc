"""Fisher information and Gram matrices against computations by other means."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from two_layouts import FAMILIES, LAYOUTS, made

from evomerge.engines.transformers import TransformersEngine
from evomerge.errors import CheckpointError, ConfigError, InputError, OutputError, PlanError
from evomerge.recipes import Recipe
from evomerge.scoring.texts import Text
from evomerge.statistics import Collected, Collection, collect
from evomerge.statistics import examples as texts
from evomerge.statistics.examples import Example
from evomerge.statistics.gram import GramMatrices
from evomerge.statistics.squared_gradients import sample
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.library import Library
from evomerge.weights.merge import merge
from evomerge.weights.statistics import Statistics, open_statistics

Tiny = Callable[..., Path]
LENGTH = 12  # tokens of an example in these tests
TEXT = " ".join(f"w{number * number % 31}" for number in range(40))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def gather(model: Path, out: Path, **keys: Any) -> Statistics:
    settings: dict[str, Any] = {"kind": "fisher", "max_length": LENGTH, "device": "cpu"}
    settings |= keys
    collect(Collection(model=str(model), **settings), out)
    return open_statistics(out, kind=settings["kind"], of=Checkpoint(model))


def everything(statistics: Statistics) -> dict[str, Tensor]:
    found = {name: statistics.read(name) for name in statistics.names}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def pieces() -> list[list[int]]:
    """TEXT as the tiny models read it: a start token before every piece."""
    tokens = [4 + int(word[1:]) for word in TEXT.split()]
    return [[1, *tokens[i : i + LENGTH - 1]] for i in range(0, len(tokens), LENGTH - 1)]


def brute_force(folder: Path, seed: int = 0, count: int | None = None) -> dict[str, Tensor]:
    """The Fisher diagonal, one log-probability and one gradient after another, in float64."""
    model = load(folder).double()
    total: dict[str, Tensor] = {}
    read = pieces()[:count]
    for number, tokens in enumerate(read):
        draws = np.random.default_rng([seed, number]).random(len(tokens) - 1)
        gradients = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for end, draw in zip(range(1, len(tokens)), draws, strict=True):
            logp = model(input_ids=torch.tensor([tokens[:end]])).logits[0, -1].log_softmax(-1)
            below = np.cumsum(logp.exp().detach().numpy())
            label = int(np.argmax(below > draw))
            model.zero_grad()
            logp[label].backward()
            for name, parameter in model.named_parameters():
                gradients[name] += parameter.grad
        for name, gradient in gradients.items():
            total[name] = total.get(name, 0.0) + gradient**2 / len(read)
    return total


@pytest.mark.parametrize("tied", [False, True])
def test_fisher_is_the_mean_of_squared_gradients_of_sampled_labels(
    tiny: Tiny, text: Path, tmp_path: Path, tied: bool
) -> None:
    model = tiny(tied=tied)
    found = everything(gather(model, tmp_path / "out", text=text))
    expected = brute_force(model)
    assert found.keys() == expected.keys() == Checkpoint(model).tensors.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-3, atol=1e-7)


def test_labels_depend_on_the_seed(tiny: Tiny, text: Path, tmp_path: Path) -> None:
    for seed in (0, 7):
        found = gather(tiny(), tmp_path / f"{seed}", text=text, seed=seed).read("lm_head.weight")
        assert found is not None
        expected = brute_force(tiny(), seed)["lm_head.weight"]
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-7)


def test_labels_are_drawn_as_often_as_they_are_probable() -> None:
    probabilities = torch.tensor([0.125, 0.0, 0.5, 0.25, 0.125, 0.0])
    draws = (torch.arange(800, dtype=torch.float64) + 0.5) / 800
    labels = sample(probabilities.log().expand(800, -1), draws)
    assert labels.bincount(minlength=6).tolist() == [100, 0, 400, 200, 100, 0]


def test_an_impossible_label_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]] * 2)
    assert sample(logits, torch.tensor([0.0, 0.5]).double()).tolist() == [1, 2]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_second_moments_are_the_mean_of_squared_gradients_of_batches(
    tiny: Tiny, text: Path, tmp_path: Path, batch_size: int
) -> None:
    keys: dict[str, Any] = {"kind": "second_moments", "batch_size": batch_size, "seed": 5}
    found = gather(tiny(), tmp_path / "out", text=text, **keys)
    model = load(tiny()).double()
    order = np.random.default_rng(5).permutation(len(pieces())).tolist()
    numbers = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    expected = dict.fromkeys(dict(model.named_parameters()), 0.0)
    for batch in numbers:
        texts_read = [pieces()[number] for number in batch]
        labels = sum(len(tokens) - 1 for tokens in texts_read)
        model.zero_grad()
        for tokens in texts_read:
            ids = torch.tensor([tokens])
            loss = model(input_ids=ids, labels=ids).loss  # the mean over this text's tokens
            (loss * (len(tokens) - 1) / labels).backward()
        for name, parameter in model.named_parameters():
            expected[name] += parameter.grad**2 / len(numbers)
    assert found.manifest.batch_size == batch_size
    assert found.manifest.tokens == sum(len(tokens) - 1 for tokens in pieces())
    assert found.names == expected.keys()
    for name, tensor in everything(found).items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("operator", ["ota", "ffg"])
def test_second_moments_are_what_an_operator_merges_by(
    operator: str, tiny: Tiny, text: Path, tmp_path: Path
) -> None:
    sources: dict[str, Any] = {"one": str(tiny(1)), "two": str(tiny(2))}
    if operator == "ffg":
        del sources["two"]
    for name, model in sources.items():
        gather(Path(model), tmp_path / name, kind="second_moments", text=text)
    recipe = Recipe(
        base=str(tiny()),
        sources=sources,
        statistics={name: str(tmp_path / name) for name in sources},
        operator=operator,
        parameters={"density": 0.5},
        dtype="float32",
    )
    merged = dict(merge(Library().plan(recipe)))
    assert merged.keys() == Checkpoint(tiny()).tensors.keys()


def inputs(folder: Path, read: list[list[int]]) -> dict[str, Tensor]:
    """E[x xᵀ] of every linear layer, from a hook of its own, one example after another."""
    model = load(folder)
    seen: dict[str, list[Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(
                lambda module, x, y, name=name: seen.setdefault(f"{name}.weight", []).append(x[0])
            )
    with torch.no_grad():
        for tokens in read:
            model(input_ids=torch.tensor([tokens]))
    stacked = {name: torch.cat([x.flatten(0, -2) for x in xs]) for name, xs in seen.items()}
    return {name: (x.double().T @ x.double()) / len(x) for name, x in stacked.items()}


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_gram_is_the_mean_of_x_xt_over_tokens(
    tiny: Tiny, text: Path, tmp_path: Path, batch_size: int
) -> None:
    gram = gather(tiny(), tmp_path / "out", kind="gram", text=text, batch_size=batch_size)
    expected = inputs(tiny(), pieces())
    assert gram.names == expected.keys()
    assert gram.manifest.tokens == sum(map(len, pieces()))
    for name, tensor in everything(gram).items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-4, atol=1e-5)
        assert torch.equal(tensor, tensor.T)


def test_layers_with_one_input_share_one_matrix(tiny: Tiny, text: Path, tmp_path: Path) -> None:
    gram = gather(tiny(), tmp_path / "out", kind="gram", text=text)
    block = "model.layers.1"
    assert {a: n for a, n in gram.manifest.aliases.items() if a.startswith(block)} == {
        f"{block}.self_attn.k_proj.weight": f"{block}.self_attn.q_proj.weight",
        f"{block}.self_attn.v_proj.weight": f"{block}.self_attn.q_proj.weight",
        f"{block}.mlp.up_proj.weight": f"{block}.mlp.gate_proj.weight",
    }
    stored = load_file(tmp_path / "out" / "statistics.safetensors")
    assert len(stored) == 3 * 4 + 1
    assert not stored.keys() & gram.manifest.aliases.keys()


def test_a_diagonal_is_that_of_the_matrix(tiny: Tiny, text: Path, tmp_path: Path) -> None:
    whole = everything(gather(tiny(), tmp_path / "whole", kind="gram", text=text))
    gram = gather(tiny(), tmp_path / "diagonal", kind="gram", text=text, diagonal=True)
    assert gram.manifest.diagonal
    for name, tensor in everything(gram).items():
        torch.testing.assert_close(tensor, whole[name].diagonal())


def test_a_tied_head_has_no_gram_matrix(tiny: Tiny, text: Path, tmp_path: Path) -> None:
    model = tiny(tied=True)
    found = collect(Collection(model=str(model), kind="gram", text=text), tmp_path / "out")
    assert all(".layers." in name for name in open_statistics(tmp_path / "out").names)
    assert found.notes == ["256 examples were asked for and 1 are there; all were used."]


def test_a_tensor_stored_under_two_names_has_one_statistic(
    tiny: Tiny, text: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny(tied=True), tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    found = gather(model, tmp_path / "out", text=text)
    assert found.manifest.aliases == {"model.embed_tokens.weight": "lm_head.weight"}
    expected = everything(gather(tiny(tied=True), tmp_path / "one", text=text))
    tensor = found.read("lm_head.weight")
    assert tensor is not None
    assert torch.equal(tensor, expected["model.embed_tokens.weight"])


@pytest.mark.parametrize("family", ["mixtral", "gpt_neox"])
def test_tensors_have_statistics_by_their_names_in_files_if_files_have_them_whole(
    family: str, tiny: Tiny, text: Path, tmp_path: Path
) -> None:
    model = LAYOUTS["files"](made(FAMILIES[family], 0), tmp_path / "model")
    for file in tiny().glob("tokenizer*"):
        shutil.copy(file, model)
    if family == "mixtral":
        with pytest.raises(PlanError, match=r"4 tensors of MixtralForCausalLM, .* are joined"):
            gather(model, tmp_path / "out", text=text)
        return
    assert "embed_out.weight" in gather(model, tmp_path / "out", text=text).names


@pytest.mark.parametrize("kind", ["fisher", "gram", "second_moments"])
@pytest.mark.parametrize("shard_bytes", [4_000, 10**9])
def test_the_same_collection_writes_the_same_bytes(
    tiny: Tiny, text: Path, tmp_path: Path, kind: Any, shard_bytes: int
) -> None:
    what = Collection(
        model=str(tiny()), kind=kind, text=text, max_length=LENGTH, seed=3, examples=2
    )
    written = []
    for number in range(2):
        torch.manual_seed(number)
        np.random.seed(number)
        out = tmp_path / str(number)
        collect(what, out, shard_bytes=shard_bytes)
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
        assert open_statistics(out, of=Checkpoint(tiny())).manifest.examples == 2
    assert written[0] == written[1]
    assert (len(written[0]) > 3) == (shard_bytes < 10**6)


def test_bfloat16_weights_are_taken_as_they_are(tiny: Tiny, text: Path, tmp_path: Path) -> None:
    model = tiny(dtype="bfloat16")
    found = gather(model, tmp_path / "out", text=text, examples=9)
    tensor = found.read("model.layers.0.mlp.down_proj.weight")
    assert tensor is not None
    assert tensor.dtype == torch.float32
    expected = brute_force(model)["model.layers.0.mlp.down_proj.weight"]
    torch.testing.assert_close(tensor.double(), expected, rtol=1e-3, atol=1e-7)


def test_of_a_fitness_prompts_and_answers_are_read(zoo: Path, tmp_path: Path) -> None:
    keys = {"fitness": "zoo_skills", "tasks": ("arithmetic",), "examples": 5, "max_length": 64}
    fisher = gather(zoo / "base", tmp_path / "fisher", **keys).manifest
    gram = gather(zoo / "base", tmp_path / "gram", kind="gram", **keys).manifest
    assert fisher.data == gram.data
    assert fisher.data["tasks"] == ["arithmetic"]
    assert fisher.data_digest == gram.data_digest
    assert fisher.examples == gram.examples == 5
    assert fisher.tokens == gram.tokens - 5  # of the first token nothing is predicted


@pytest.fixture(scope="module")
def lm(zoo: Path) -> Iterator[Any]:
    """An lm-eval model with the zoo's tokenizer."""
    engine = TransformersEngine(device="cpu")
    engine.open(Library().open(str(zoo / "base"), {"model": str(zoo / "base")}))
    yield engine.lm
    engine.close()


def test_prompt_and_target_become_one_sequence(lm: Any) -> None:
    assert texts.from_texts([Text("84-36=", "48")], lm, 64) == [tuple(lm.tok_encode("84-36=48"))]


@pytest.mark.parametrize("text", [Text("", "48"), Text("4", "")])
def test_a_start_token_stands_for_a_prompt(lm: Any, text: Text) -> None:
    (found,) = texts.from_texts([text], lm, 64)
    assert found == (lm.prefix_token_id, *lm.tok_encode(text.prompt + text.target))


def test_a_long_prompt_loses_its_beginning(lm: Any) -> None:
    (found,) = texts.from_texts([Text("84-36=", "48")], lm, 5)
    assert found == tuple(lm.tok_encode("84-36=48"))[-5:]


def test_a_draw_keeps_order_and_takes_all_where_there_are_fewer() -> None:
    available = [(number, 0) for number in range(10)]
    assert texts.draw(available, 10, 0) == texts.draw(available, 99, 1) == available
    few = texts.draw(available, 4, 0)
    assert few == sorted(few)
    assert len(few) == 4
    assert few != texts.draw(available, 4, 1)


def test_batches_hold_every_example_once_and_one_length_each() -> None:
    available: list[Example] = [tuple(range(2 + number % 3)) for number in range(10)]
    found = list(texts.batches(available, 2))
    assert all(len({len(example) for example in batch}) == 1 for batch in found)
    assert max(map(len, found)) == 2
    assert sorted(example for batch in found for example in batch) == sorted(available)


class Toy(nn.Module):
    """Linear layers, called as a test wants on one-hot tokens; sums up as a language model."""

    device = torch.device("cpu")

    def __init__(self, call: Callable[[Any, Tensor], object], layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(layers))
        self.call = call

    def forward(self, input_ids: Tensor, use_cache: bool) -> None:
        self.call(self.layers, nn.functional.one_hot(input_ids, 4).float())


def gram_of(call: Callable[[Any, Tensor], object], *tokens: int) -> GramMatrices:
    toy = Toy(call)
    found = GramMatrices(toy, dict(toy.named_parameters()))
    for token in tokens:
        found.add([(token, token)])
    return found


def counts(gram: GramMatrices) -> dict[str, list[float]]:
    return {name: tensor.diagonal().tolist() for name, tensor in gram.results()}


def test_a_layer_called_twice_averages_over_both_inputs() -> None:
    gram = gram_of(lambda layers, x: (layers[0](x), layers[0](3 * x)), 1)
    assert counts(gram) == {"layers.0.weight": [0.0, 5.0, 0.0, 0.0]}


def test_a_layer_that_no_token_reaches_has_no_matrix() -> None:
    gram = gram_of(lambda layers, x: (layers[0](x), layers[1](x[:, :0])), 1)
    assert counts(gram).keys() == {"layers.0.weight"}
    assert gram.aliases == {}


def test_an_input_that_was_written_to_is_another_input() -> None:
    gram = gram_of(lambda layers, x: (layers[0](x), layers[1](x.mul_(2))), 1)
    assert counts(gram)["layers.1.weight"][1] == 4
    assert gram.aliases == {}


def test_an_input_shared_in_some_calls_only_is_refused() -> None:
    def call(layers: Any, x: Tensor) -> None:
        layers[0](x)
        layers[1](x if x[..., 1].any() else x.clone())

    assert gram_of(call, 1).aliases == {"layers.1.weight": "layers.0.weight"}
    with pytest.raises(PlanError, match=r"layers.1.weight: shares its input"):
        gram_of(call, 1, 2)


@pytest.fixture
def gpt2(tiny: Tiny, tmp_path: Path) -> Path:
    """Keeps its linear weights as (in, out), and ties its head."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = shutil.copytree(tiny(), tmp_path / "gpt2")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=40, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=1
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_weights_that_are_stored_transposed_have_fisher_but_no_gram(
    gpt2: Path, text: Path, tmp_path: Path
) -> None:
    found = everything(gather(gpt2, tmp_path / "out", text=text))
    expected = brute_force(gpt2)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-3, atol=1e-7)
    with pytest.raises(PlanError, match=r"8 weights, transformer.h.0.attn.c_attn.weight first"):
        gather(gpt2, tmp_path / "gram", kind="gram", text=text)
    assert not (tmp_path / "gram").exists()


def refused(tiny: Tiny, out: Path, error: type[Exception] = ConfigError, **keys: Any) -> str:
    with pytest.raises(error) as caught:
        gather(tiny(), out, **keys)
    assert list(out.parent.glob(f"*{out.name}*")) == []
    return str(caught.value)


def test_all_mistakes_are_named_at_once(tiny: Tiny, text: Path, tmp_path: Path) -> None:
    wrong: dict[str, Any] = {
        **{"text": text / "nowhere", "fitness": "zoo_skills", "tasks": ("arithmetik",)},
        **{"examples": 0, "max_length": 1, "seed": -1, "batch_size": 2, "diagonal": True},
    }
    message = refused(tiny, tmp_path / "out", **wrong)
    assert len(message.splitlines()) == 8
    assert "Did you mean 'arithmetic'" in message


def test_examples_must_come_from_somewhere(tiny: Tiny, tmp_path: Path) -> None:
    assert "either a text or a fitness" in refused(tiny, tmp_path / "out")
    message = refused(tiny, tmp_path / "out", fitness="zoo_skils")
    assert "zoo_skills" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "holds no text"), (b" \n", "holds no text"), (b"\xff", "not UTF-8")],
)
def test_a_text_that_says_nothing_is_refused(
    tiny: Tiny, text: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    text.write_bytes(content)
    assert message in refused(tiny, tmp_path / "out", text=text)
    assert "no such file" in refused(tiny, tmp_path / "out", text=tmp_path / "nowhere.txt")


def test_fewer_examples_than_asked_for_are_a_note(tiny: Tiny, text: Path, tmp_path: Path) -> None:
    what = Collection(model=str(tiny()), kind="fisher", text=text, examples=100, max_length=LENGTH)
    found: Collected = collect(what, tmp_path / "out")
    assert found.notes == ["100 examples were asked for and 4 are there; all were used."]
    assert found.manifest.examples == 4


def test_progress_is_reported(tiny: Tiny, text: Path, tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    what = Collection(model=str(tiny()), kind="fisher", text=text, max_length=LENGTH)
    collect(what, tmp_path / "out", lambda done, total: reported.append((done, total)))
    assert reported == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_taken_folder_is_refused(tiny: Tiny, text: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    gather(tiny(), tmp_path / "out", text=text)
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        gather(tiny(1), tmp_path / "out", text=text)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_a_full_disk_leaves_nothing(
    tiny: Tiny, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    message = refused(tiny, tmp_path / "new" / "out", OutputError, text=text)
    assert "the disk has 1000 free" in message
    assert not (tmp_path / "new").exists()


def damaged(model: Path, folder: Path, value: float) -> Path:
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"].fill_(value)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_nan_in_weights_is_named(tiny: Tiny, text: Path, tmp_path: Path) -> None:
    model = damaged(tiny(), tmp_path / "model", float("nan"))
    with pytest.raises(CheckpointError, match=r"model.layers.1.mlp.up_proj.weight holds 2048 NaN"):
        gather(model, tmp_path / "out", text=text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["fisher", "gram", "second_moments"])
def test_statistics_that_are_not_finite_are_named(
    tiny: Tiny, text: Path, tmp_path: Path, kind: str
) -> None:
    model = damaged(tiny(), tmp_path / "model", 1e38)
    with pytest.raises(CheckpointError, match=rf"{kind} statistics of \d+ tensors, \S+ first"):
        gather(model, tmp_path / "out", kind=kind, text=text)
    assert not (tmp_path / "out").exists()


def test_the_manifest_says_what_the_numbers_are_of(tiny: Tiny, text: Path, tmp_path: Path) -> None:
    gather(tiny(), tmp_path / "out", text=text, examples=2, seed=5)
    content = json.loads((tmp_path / "out" / "manifest.json").read_text())
    expected = {
        **{"format": 1, "kind": "fisher", "model": str(tiny()), "data": {"text": "text.txt"}},
        **{"examples": 2, "max_length": LENGTH, "seed": 5, "dtype": "float32", "aliases": {}},
    }
    assert content.items() >= expected.items()
    assert content["fingerprint"] == Checkpoint(tiny()).fingerprint
