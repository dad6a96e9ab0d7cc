"""What a stranger's model holds is never run: no code, no pickle, no template outside a sandbox."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from evomerge.analysis.evaluate import evaluate
from evomerge.engines._architecture import open_tokenizer
from evomerge.errors import PlanError
from evomerge.printable import is_printable
from evomerge.recipes import Recipe
from evomerge.weights.build import model_card
from evomerge.weights.library import Library

Tiny = Callable[..., Path]

PACKAGE = Path(__file__).parents[1] / "evomerge"
TASKS = PACKAGE.parent / "fitness" / "zoo_skills"


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the package, and the dotted name of what is called."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    found = [one.value for one in call.keywords if one.arg == name]
    return ast.literal_eval(found[0]) if found else None


def test_transformers_is_always_told_to_trust_no_code() -> None:
    opened = [
        (name, keyword(call, "trust_remote_code"))
        for name, call in calls()
        if "auto" in name.lower() and name.endswith((".from_pretrained", ".from_config"))
    ]
    assert len(opened) >= 3
    assert [name for name, trusted in opened if trusted is not False] == []


def test_nothing_is_unpickled() -> None:
    unpicklers = ("pickle.load", "pickle.loads", "marshal.loads", "joblib.load")
    for name, call in calls():
        assert name not in unpicklers
        if name == "torch.load":
            assert keyword(call, "weights_only") is True
        assert keyword(call, "allow_pickle") in (None, False)


@pytest.mark.parametrize("named_in", ["config.json", "tokenizer_config.json"])
def test_no_engine_runs_the_code_of_a_model(tiny: Tiny, tmp_path: Path, named_in: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny(), model)
    (model / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (model / "custom_generate").mkdir()
    shutil.copy(model / "mine.py", model / "custom_generate" / "generate.py")
    content = json.loads((model / named_in).read_text())
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    content["auto_map"] = {name: f"mine.{name}" for name in names}
    content |= {"model_type": "mine"} if named_in == "config.json" else {"tokenizer_class": "Mine"}
    (model / named_in).write_text(json.dumps(content))
    with pytest.raises(PlanError, match=r"model: .* needs Python of its own, which evomerge never"):
        evaluate(model, {"tasks": ["zoo_arithmetic"], "include_path": str(TASKS)})
    assert not (tmp_path / "ran").exists()


def test_chat_templates_are_rendered_in_a_sandbox(tiny: Tiny, tmp_path: Path) -> None:
    from jinja2.exceptions import SecurityError

    model = tmp_path / "model"
    shutil.copytree(tiny(), model)
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    (model / "chat_template.jinja").write_text(template)
    recipe = Recipe(base=str(model), sources={"a": str(model)}, operator="linear", dtype="float32")
    tokenizer = open_tokenizer(Library().models(recipe), model)
    with pytest.raises(SecurityError):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}])


def test_a_model_card_holds_nothing_that_a_terminal_obeys() -> None:
    evil = "a\x1b]0;x\x07\u202e\nb"
    recipe = Recipe.model_validate(
        {"base": evil, "sources": {evil: evil}, "operator": "linear", "dtype": "float32"}
    )
    card = model_card(recipe, evil, notes=[evil])
    assert is_printable(card.replace("\n", ""))
    text = card.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(text)["sources"] == {evil: evil}
