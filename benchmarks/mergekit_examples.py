"""The YAML of mergekit's documentation, built by mergekit and by evomerge, element by element.

Every example is built on tiny models of random weights, once by mergekit 0.1.5 and twice by
evomerge: as it reads the file, and with `dialect: mergekit`. Two changes make the numbers
comparable: mergekit calculates in float32, as evomerge always does, and rounds to the dtype of
the example; and where elements are dropped at random, the density is 1. A table says how many
elements differ by more than one step of that dtype, and why. Exits with 1 if there is one that
no known fault of mergekit explains.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from _mergekit import install
from _mergekit_faults import FAULTS
from _mergekit_forms import FORMS
from _tiny_models import make_adapter, make_model
from jinja2 import Environment
from safetensors.torch import load_file
from torch import Tensor

from evomerge.errors import InputError
from evomerge.weights.build import build
from evomerge.weights.files.token_ids import token_ids
from evomerge.weights.library import read_recipe

EXAMPLES = Path(__file__).resolve().parents[1] / "tests" / "recipes" / "mergekit" / "examples"
BLOCKS = 6  # of models of whose blocks an example says nothing
MESSAGES = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
CHAT = {"messages": MESSAGES, "bos_token": "<s>", "eos_token": "</s>"}
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
VOCABULARY = re.compile(r"embed_tokens|lm_head")

# One process for all examples: starting it takes longer than a merge.
DRIVER = """
import sys, traceback
from pathlib import Path
from mergekit.scripts.multimerge import main as many
from mergekit.scripts.run_yaml import main as one
for path in map(Path, sys.argv[1:]):
    out = str(path.parent / "mergekit")
    arguments = [str(path), "--lora-merge-cache", str(path.parent / "adapted")]
    several = "\\n---\\n" in path.read_text()
    if several:
        arguments += ["--out-path", out, "-I", str(path.parent / "between")]
    else:
        arguments += [out, "--unsafe-truncate-embeddings"]
    try:
        (many if several else one)(arguments, standalone_mode=False)
    except Exception:
        (path.parent / "error").write_text(traceback.format_exc())
"""


class Difference(NamedTuple):
    """Of two merged models.

    Attributes:
        elements: in all.
        rounded: those that are one step of the dtype apart.
        different: those that are further apart.
        steps: the largest distance.
        remarks: what differs besides elements.
    """

    elements: int = 0
    rounded: int = 0
    different: int = 0
    steps: float = 0.0
    remarks: tuple[str, ...] = ()

    @property
    def is_one(self) -> bool:
        """Whether there is one that rounding does not explain."""
        return self.different > 0 or bool(self.remarks)


def main() -> int:
    """Build everything, print the table; how the process ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keeps models and environment between runs")
    parser.add_argument("--only", nargs="*", metavar="EXAMPLE", help="part of an example's name")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="evomerge-examples-"))
    work = folder / "mergekit-examples"
    try:
        programs = install(folder / "mergekit")
        shutil.rmtree(work / "out", ignore_errors=True)
        examples = {
            name: prepare(documents, work / "models", work / "out" / re.sub(r"\W+", "-", name))
            for name, documents in read_examples()
            if not arguments.only or any(part in name for part in arguments.only)
        }
        command = [str(programs / "python"), "-c", DRIVER, *map(str, examples.values())]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
        return _print(examples)
    finally:
        if not arguments.folder:
            shutil.rmtree(folder, ignore_errors=True)


def read_examples() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Name and documents of every YAML."""
    texts = {path.stem: path.read_text() for path in sorted(EXAMPLES.glob("*.yaml"))}
    for name, text in (texts | FORMS).items():
        yield name, list(yaml.safe_load_all(text))


def prepare(documents: Sequence[dict[str, Any]], models: Path, folder: Path) -> Path:
    """Write an example with the models that it needs in place of those that it names."""
    ends = [key["layer_range"][1] for key in _mappings(documents) if "layer_range" in key]
    blocks = max(ends, default=BLOCKS)
    own_tokens = any(key in one for one in documents for key in ("tokenizer", "tokenizer_source"))

    def replaced(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: replaced(value) for key, value in content.items()}
        if isinstance(content, list):
            return [replaced(value) for value in content]
        if not (isinstance(content, str) and content.startswith("org/")):
            return content
        if "+" in content:
            return "+".join(replaced(part) for part in content.split("+"))
        name = content.removeprefix("org/")
        place = models / f"{blocks}-{'own' if own_tokens else 'one'}" / name
        if "lora" in name:
            return str(make_adapter(place, name, blocks))
        return str(make_model(place, name, blocks, own_tokens))

    written = [_comparable(replaced(one)) for one in documents]
    folder.mkdir(parents=True)
    dialect = [{"dialect": "mergekit", **one} for one in written]
    (folder / "dialect.yaml").write_text(yaml.safe_dump_all(dialect, sort_keys=False))
    path = folder / "example.yaml"
    path.write_text(yaml.safe_dump_all(written, sort_keys=False))
    return path


def _comparable(content: dict[str, Any]) -> dict[str, Any]:
    """A document, calculated in float32, that drops nothing at random."""
    dtype = content.get("out_dtype") or content.get("dtype") or "bfloat16"
    for key in _mappings(content):
        if content["merge_method"] in RANDOM and "density" in key:
            key["density"] = 1.0
    return {**content, "dtype": "float32", "out_dtype": dtype}


def _mappings(content: Any) -> Iterator[dict[str, Any]]:
    if isinstance(content, dict):
        yield content
        content = list(content.values())
    if isinstance(content, list):
        for value in content:
            yield from _mappings(value)


def compare(ours: Path, theirs: Path) -> Difference:
    """Two folders, tensor by tensor; their tokens may stand in another order."""
    remarks = [
        f"{what}: {own} here, {other} there"
        for what, own, other in zip(
            ("config", "chat template"), _described(ours), _described(theirs), strict=True
        )
        if own != other
    ]
    left, right = _tensors(ours), _tensors(theirs)
    shapes = [{name: tuple(tensor.shape) for name, tensor in one.items()} for one in (left, right)]
    if shapes[0] != shapes[1]:
        odd = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
        return Difference(remarks=(*remarks, f"other tensors or shapes: {', '.join(odd[:3])}"))
    rows = _token_rows(ours, theirs)
    if rows is None:
        return Difference(remarks=(*remarks, "other tokens"))
    total = Difference(remarks=tuple(remarks))
    for name, own in left.items():
        other = right[name]
        if VOCABULARY.search(name):
            order = torch.arange(len(other))
            order[: len(rows)] = rows
            other = other[order]
        steps = _steps(own, other)
        total = total._replace(
            elements=total.elements + steps.numel(),
            rounded=total.rounded + int(((steps > 0) & (steps <= 1)).sum()),
            different=total.different + int((steps > 1).sum()),
            steps=max(total.steps, float(steps.max())),
        )
    return total


def _steps(own: Tensor, other: Tensor) -> Tensor:
    """How far elements are apart, in steps of their dtype, and at most one if they are neighbours.

    Near zero float32 has rounded more than the element is worth: a step is no smaller than it is
    at a 256th of the tensor's root mean square.
    """
    info = torch.finfo(own.dtype)
    x, y = own.double(), other.double()
    floor = max(info.tiny, float(x.square().mean().sqrt()) / 256)
    return (x - y).abs() / (info.eps * torch.maximum(x.abs(), y.abs()).clamp(min=floor))


def _tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def _token_rows(ours: Path, theirs: Path) -> Tensor | None:
    """For each of our rows with a token the row of theirs; None if the tokens are others."""
    own, other = token_ids(ours), token_ids(theirs)
    if own is None or other is None or own.keys() != other.keys():
        return None
    return torch.tensor([other[token] for token in sorted(own, key=own.__getitem__)])


def _described(folder: Path) -> tuple[dict[str, Any], str]:
    """What the config says of sizes, and what the chat template makes of a chat."""
    config = json.loads((folder / "config.json").read_text())
    text = config.get("text_config", config)
    keys = ("num_hidden_layers", "vocab_size", "hidden_size", "tie_word_embeddings")
    path = folder / "chat_template.jinja"
    template = path.read_text() if path.exists() else ""
    shown = Environment(trim_blocks=True, lstrip_blocks=True)  # noqa: S701  as transformers does
    said = shown.from_string(template).render(CHAT)
    return {"dtype": config.get("dtype"), **{key: text.get(key) for key in keys}}, said


def _built(path: Path, dialect: bool) -> Difference | str:
    """What differs from mergekit's model, or why there is no other."""
    theirs = path.parent / "mergekit"
    error = path.parent / "error"
    if error.exists():
        return f"mergekit: {error.read_text().strip().splitlines()[-1]}"
    out = path.parent / ("dialect" if dialect else "evomerge")
    try:
        build(read_recipe(path.with_stem("dialect") if dialect else path), out)
    except InputError as refusal:
        return f"refused: {refusal}"
    return compare(out, theirs)


def _print(examples: dict[str, Path]) -> int:
    """The table, row by row; 1 if there is a difference that nothing explains."""
    print("| example | method | elements | one step | more | in dialect | why |")
    print("|---|---|---|---|---|---|---|")
    unexplained = []
    for name, path in examples.items():
        documents = list(yaml.safe_load_all(path.read_text()))
        methods = ", ".join(dict.fromkeys(one["merge_method"] for one in documents))
        if documents[-1]["merge_method"] in RANDOM:
            methods += ", density 1"
        plain, dialect = _built(path, False), _built(path, True)
        fault = FAULTS.get(name)
        wrong = [one for one, known in ((plain, fault), (dialect, fault and fault.repeated))
                 if not known and (isinstance(one, str) or one.is_one)]  # fmt: skip
        why = fault.why if fault else ""
        for one in wrong:
            why += f" UNEXPLAINED: {one if isinstance(one, str) else one.remarks}"
        unexplained += [name] * bool(wrong)
        cells = [f"{plain.elements:,}", f"{plain.rounded:,}", _more(plain)] if isinstance(
            plain, Difference) else ["", "", plain]  # fmt: skip
        print(f"| {' | '.join([name, methods, *cells, _more(dialect), why])} |", flush=True)
    print(f"\n{len(examples)} examples, {len(unexplained)} with differences that nothing explains.")
    return 1 if unexplained else 0


def _more(one: Difference | str) -> str:
    if isinstance(one, str):
        return one
    return f"{one.different:,} (at most {one.steps:.3g} steps)" if one.different else "0"


if __name__ == "__main__":
    sys.exit(main())
