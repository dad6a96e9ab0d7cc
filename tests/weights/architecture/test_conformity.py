"""What Transformers says of tensors, asked by their names and shapes alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.weights.architecture.conformity import RefusedError, Report, report
from evomerge.weights.checkpoint import Checkpoint

Tiny = Callable[..., Path]
NORM = "model.norm.weight"


def shapes(model: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: info.shape for name, info in model.tensors.items()}


@pytest.mark.parametrize("tied", [False, True])
def test_a_whole_model_lacks_nothing(tiny: Tiny, tied: bool, capsys: Any) -> None:
    model = Checkpoint(tiny(tied=tied))
    capsys.readouterr()
    nothing: frozenset[str] = frozenset()
    assert report(model.config, shapes(model)) == Report("LlamaForCausalLM", nothing, nothing, {})
    assert capsys.readouterr() == ("", "")


def test_what_is_missing_unknown_or_of_another_shape_is_told(tiny: Tiny) -> None:
    model = Checkpoint(tiny())
    tensors = shapes(model) | {"x.weight": (3,), "lm_head.weight": (40, 31)}
    del tensors[NORM]
    found = report(model.config, tensors)
    assert found is not None
    assert (set(found.missing), set(found.unexpected)) == ({NORM}, {"x.weight"})
    assert found.mismatched == {
        "lm_head.weight": "lm_head.weight is (40, 31), but (40, 32) by the config"
    }


def test_nothing_is_said_of_models_that_transformers_does_not_know(tiny: Tiny) -> None:
    config = json.loads((tiny() / "config.json").read_text())
    others: list[dict[str, Any]] = [{"model_type": "unheard_of"}, {"model_type": 3}]
    for other in (*others, {"auto_map": {}}):
        assert report(config | other, {}) is None
    assert report({}, {}) is None


def test_a_class_that_is_not_of_the_type_is_passed_over(tiny: Tiny) -> None:
    model = Checkpoint(tiny())
    for wrong in (["BertModel"], ["no such"], [3], 3, ["torch"], None):
        found = report(model.config | {"architectures": wrong}, shapes(model))
        assert found is not None
        assert found.kind == "LlamaForCausalLM"


def test_infinities_are_read_as_transformers_writes_them() -> None:
    from transformers import Mamba2Config, Mamba2ForCausalLM

    config = Mamba2Config(num_heads=4, head_dim=8, hidden_size=16, state_size=4, n_groups=1,
                          num_hidden_layers=1, vocab_size=8)  # fmt: skip
    written = json.loads(config.to_json_string(use_diff=False))
    names = {n: tuple(t.shape) for n, t in Mamba2ForCausalLM(config).state_dict().items()}
    found = report(written | {"architectures": ["Mamba2ForCausalLM"]}, names)
    assert found is not None
    assert not found.missing


def test_a_refusal_is_one_line(tiny: Tiny) -> None:
    config = Checkpoint(tiny()).config | {"rms_norm_eps": 0}
    with pytest.raises(RefusedError) as error:
        report(config, {})
    assert "rms_norm_eps" in str(error.value)
    assert "\n" not in str(error.value)
