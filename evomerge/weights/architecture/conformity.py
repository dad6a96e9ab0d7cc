"""What Transformers says of a config, and of tensors as weights of the model that it describes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from evomerge.weights.architecture.empty import model_class, quiet, unfilled

Shape = tuple[int, ...]

_LONGEST = 300  # characters of what Transformers says


class RefusedError(Exception):
    """Transformers makes no model of a config; the text says why."""


class Report(NamedTuple):
    """What Transformers reports when it loads tensors.

    Attributes:
        kind: name of the model's class.
        missing: names in memory of tensors that nothing fills.
        unexpected: names in files of tensors that the model does not have.
        mismatched: by name in memory, a sentence about a tensor of another shape than the config's.
    """

    kind: str
    missing: frozenset[str]
    unexpected: frozenset[str]
    mismatched: Mapping[str, str]

    @property
    def not_whole(self) -> Set[str]:
        """Names in memory of tensors that nothing fills, or only a part, as one expert fewer."""
        return self.missing | self.mismatched.keys()


def report(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Report | None:
    """What Transformers reports of these tensors; None where it does not know such a model.

    No weight is read: the model and its tensors have shapes alone. This takes about 1 ms a
    tensor, and seconds for the first, which imports Transformers.

    Args:
        config: a config.json.
        shapes: by name in the files.

    Raises:
        RefusedError: Transformers knows the type of the model, but not with this config.
    """
    kind = _kind(config)
    if kind is None:
        return None
    import torch

    with quiet():
        try:
            made = _configured(kind, config, len(shapes))
        except ImportError:
            return None  # its code needs a library that is not there
        tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        try:
            _, found = kind.from_pretrained(
                None,
                config=made,
                state_dict=tensors,
                device_map="meta",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except Exception:  # a family whose own code asks for values: nothing is known of it
            return None
    return Report(
        kind.__name__,
        frozenset(found["missing_keys"]),
        frozenset(found["unexpected_keys"]),
        {
            name: f"{name} is {tuple(stored)}, but {tuple(wanted)} by the config"
            for name, stored, wanted in sorted(found["mismatched_keys"])
        },
    )


def _kind(config: Mapping[str, Any]) -> Any | None:
    """The class of a config's model; None where Transformers knows none without other code."""
    if not isinstance(config.get("model_type"), str) or "auto_map" in config:
        return None
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        known = CONFIG_MAPPING[config["model_type"]]
    except (KeyError, ImportError):
        return None
    return model_class(known, config.get("architectures"), strict=True)


def _configured(kind: Any, config: Mapping[str, Any], tensors: int) -> Any:
    """The config as Transformers has it, once a model has been made of it.

    Raises:
        RefusedError: it cannot be made.
        ImportError: not without a library.
    """
    with TemporaryDirectory(prefix="evomerge-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        try:
            made = kind.config_class.from_pretrained(folder)
            with unfilled(tensors):
                kind(made)
        except ImportError:
            raise
        except Exception as error:  # whatever a wrong value makes it raise
            raise RefusedError(reason(error)) from None
    return made


def reason(error: Exception) -> str:
    """One line that says what was raised."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_LONGEST]}" + ("..." if len(text) > _LONGEST else "")
