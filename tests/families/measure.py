"""What merging tiny models of a family gives, held to arithmetic and to blocks run by hand."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from run_blocks import answer, composed
from safetensors.torch import load_file
from tiny_configs import VOCABULARY, tiny_config
from torch import Tensor

from evomerge.errors import InputError
from evomerge.recipes import Recipe
from evomerge.weights.build import build
from evomerge.weights.checkpoint import Checkpoint

COLUMNS = ("linear", "ties", "slerp", "union", "stack")
WORDS = ("<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(VOCABULARY - 4)))
OTHER_WORDS = (*WORDS[:-8], "other", "words", *WORDS[-8:-2])  # eight rows are of other words
MOVED = (("a", 0), ("b", 1), ("a", 1), ("b", 0), ("a", 2), ("a", 3))

State = dict[str, Tensor]


class WrongError(AssertionError):
    """A merged model that is not what was asked for."""


class Family:
    """Three tiny models of one family.

    Args:
        kind: its `model_type`.
        auto: the name of the Auto class that loads it.
        folder: is filled.
    """

    def __init__(self, kind: str, auto: str, folder: Path) -> None:
        import transformers

        self.kind, self.folder = kind, folder
        self.auto = getattr(transformers, auto)
        self.models = {name: folder / name for name in ("a", "b", "c")}
        self._live: dict[str, Any] = {}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.auto.from_config(tiny_config(kind), dtype=torch.float32).eval()
            self.name = type(model).__name__
            for name, path in self.models.items():
                for parameter in model.parameters():
                    if parameter.is_floating_point():
                        scale = 0.2 if name == "a" else 0.05
                        parameter.data += scale * torch.randn(parameter.shape)
                model.save_pretrained(path)

    def stored(self, name: str) -> State:
        return stored(self.models[name])

    def live(self, name: str) -> Any:
        """A source as users load it, once."""
        if name not in self._live:
            self._live[name] = self.load(self.models[name])
        return self._live[name]

    def load(self, folder: Path) -> Any:
        """A model as users load it.

        Raises:
            WrongError: keys that are missing, unexpected or of another shape.
        """
        model, info = self.auto.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
        if wrong := {key: sorted(map(str, value)) for key, value in info.items() if value}:
            raise WrongError(f"loading: {wrong}"[:500])
        for module in model.modules():
            if hasattr(getattr(module, "config", None), "use_cache"):
                module.config.use_cache = False  # nothing that an earlier call left
        return model.eval()

    def build(self, operator: str, sources: str, **keys: Any) -> Path:
        """A merge with the base a, of sources by their letters."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        models = {name: str(path) for name, path in self.models.items() if name in sources}
        recipe = {"base": str(self.models["a"]), "sources": models, "operator": operator, **keys}
        return build(Recipe.model_validate({"dtype": "float32", **recipe}), out)


def stored(folder: Path) -> State:
    found: State = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def measured(family: Family, column: str) -> str:
    """``ok``, or why evomerge refuses; what could not be compared is said too.

    Raises:
        WrongError: a model that is built, and is not what was asked for.
    """
    try:
        return _MEASURES[column](family) or "ok"
    except InputError as error:
        return f"refused: {error.problems[0]}".replace(str(family.folder), "")


def _linear(family: Family) -> None:
    a, b = family.stored("a"), family.stored("b")
    out = family.build("linear", "ab", parameters={"weight": 0.5})
    for name, value in _paired(stored(out), a):
        if not torch.equal(value, 0.5 * a[name] + 0.5 * b[name]):
            raise WrongError(f"linear: {name}")
    first, second = (family.live(name).state_dict() for name in "ab")
    for name, value in family.load(out).state_dict().items():
        if value.is_floating_point() and not value.equal(0.5 * first[name] + 0.5 * second[name]):
            raise WrongError(f"linear: {name} in memory")


def _ties(family: Family) -> None:
    a, b, c = (family.stored(name) for name in "abc")
    out = family.build("ties", "bc", parameters={"density": 0.5, "weight": 1.0})
    for name, value in _paired(stored(out), a):
        kept = torch.stack([_larger_half(other[name] - a[name]) for other in (b, c)])
        agrees = (kept.sign() == kept.sum(0).sign()) & (kept != 0)
        mean = (kept * agrees).sum(0) / agrees.sum(0).clamp(min=1)
        _close(f"ties: {name}", value, a[name] + mean)
    family.load(out)


def _larger_half(delta: Tensor) -> Tensor:
    flat = delta.flatten()
    top = flat.abs().argsort(descending=True, stable=True)[: max(1, flat.numel() // 2)]
    return torch.zeros_like(flat).index_copy(0, top, flat[top]).view_as(delta)


def _slerp(family: Family) -> None:
    a, b = family.stored("a"), family.stored("b")
    out = family.build("slerp", "b", parameters={"t": 0.5})
    for name, value in _paired(stored(out), a):
        u, v = a[name].double(), b[name].double()
        cosine = ((u * v).sum() / (u.norm() * v.norm()).clamp(min=1e-300)).clamp(-1, 1)
        angle = cosine.acos()
        half = 0.5 if cosine.abs() > 0.9995 else (angle / 2).sin() / angle.sin()
        _close(f"slerp: {name}", value, (half * (u + v)).float())
    family.load(out)


def _union(family: Family) -> str | None:
    embedding = Checkpoint(family.models["a"]).embedding
    if embedding is None or family.live("a").main_input_name != "input_ids":
        return "no tokens"
    a, b = family.stored("a"), family.stored("b")
    for name, words in (("a", WORDS), ("b", OTHER_WORDS)):
        _save_tokenizer(family.models[name], words)
    try:
        out = family.build("linear", "ab", parameters={"weight": 0.5}, tokenizer="union")
    finally:
        for name in "ab":
            for file in family.models[name].glob("tokenizer*"):
                file.unlink()
    rows = VOCABULARY + 2
    ids = {word: row for row, word in enumerate((*WORDS, "other", "words"))}
    for name, value in _paired(stored(out), a):
        if value.shape == a[name].shape:
            _close(f"union: {name}", value, 0.5 * a[name] + 0.5 * b[name])
            continue
        axis = value.shape.index(rows)
        first, second = _by_word(a[name], WORDS, axis), _by_word(b[name], OTHER_WORDS, axis)
        for word, row in ids.items():
            mine = first[word] if word in first else second[word]
            theirs = second[word] if word in second else first[word]
            _close(f"union: {name} of {word}", value.select(axis, row), 0.5 * mine + 0.5 * theirs)
    if stored(out)[embedding].shape[0] != rows:
        raise WrongError(f"union: {embedding} has the rows of one model")
    family.load(out)
    return None


def _by_word(table: Tensor, words: Sequence[str], axis: int) -> dict[str, Tensor]:
    return {word: table.select(axis, row) for row, word in enumerate(words)}


def _save_tokenizer(folder: Path, words: Sequence[str]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    ids = {word: row for row, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


def _stack(family: Family) -> str | None:
    try:
        return _stacked(family, MOVED)
    except InputError as error:
        why = error.problems[0].replace(str(family.folder), "")
    layers = Checkpoint(family.models["a"]).layers
    last = layers - 1
    in_place = [("b" if 0 < n < last and n % 2 else "a", n) for n in range(layers)]
    try:
        said = _stacked(family, in_place)
    except InputError as error:
        return f"refused: {error.problems[0]}".replace(str(family.folder), "")
    return f"in place: {why}" if said is None else f"in place, {said}: {why}"


def _stacked(family: Family, order: Sequence[tuple[str, int]]) -> str | None:
    slices = [{name: [number, number + 1]} for name, number in order]
    built = family.load(family.build("passthrough", "ab", slices=slices))
    models = {name: family.live(name) for name in "ab"}
    inputs = _inputs(models["a"])
    try:
        expected = composed(models, order, inputs)
    except Exception:  # it wants other inputs, or hands its blocks more than hidden states
        return "not run"
    found = answer(built, inputs)
    for key in ("logits", "last_hidden_state"):
        if isinstance(value := getattr(found, key, None), Tensor):
            other = getattr(expected, key)
            if not torch.allclose(value, other, rtol=1e-3, atol=1e-3):
                raise WrongError(f"stack: off by {float((value - other).abs().max())}")
            return None
    return "not run"


def _inputs(model: Any) -> dict[str, Any]:
    tokens = torch.arange(24).remainder(11).mul(2).add(4).view(2, 12)
    if model.main_input_name == "pixel_values":
        size = getattr(model.config, "image_size", 16)
        size = size if isinstance(size, int) else 16
        return {"pixel_values": torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)}
    decodes = "decoder_input_ids" in inspect.signature(model.forward).parameters
    return {"input_ids": tokens} | ({"decoder_input_ids": tokens.flip(1)} if decodes else {})


def _paired(merged: State, source: State) -> list[tuple[str, Tensor]]:
    """The floating point tensors of a merged model."""
    if merged.keys() != source.keys():
        raise WrongError(f"tensors: {sorted(merged.keys() ^ source.keys())}"[:300])
    return [(name, value) for name, value in merged.items() if value.is_floating_point()]


def _close(what: str, value: Tensor, expected: Tensor) -> None:
    if not torch.allclose(value, expected, rtol=1e-5, atol=1e-6):
        raise WrongError(f"{what}: off by {float((value - expected).abs().max())}")


_MEASURES: Mapping[str, Callable[[Family], str | None]] = {
    "linear": _linear,
    "ties": _ties,
    "slerp": _slerp,
    "union": _union,
    "stack": _stack,
}
