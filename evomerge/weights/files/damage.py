"""The files of a model besides its weights: whether what a merged model takes over can be read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError, shown
from evomerge.files import read_object, read_text, require_regular
from evomerge.weights.files.file_names import OBJECTS, TEXTS, VOCABULARIES

_AGAIN = "Copy the file again."

# Settings that say how many of something a model has. Nothing is made of an absurd number.
_COUNT = re.compile(r"(layers?|blocks?|experts|depth|heads|stages|groups)$")
_MOST = 100_000


def damaged_files(folder: Path) -> list[str]:
    """A sentence for each of the small files that Transformers could not read.

    They are those of tokenizer, chat template, generation config and processors.
    """
    problems: list[str] = []
    for name in (*OBJECTS, *TEXTS, *VOCABULARIES):
        path = folder / name
        if not os.path.lexists(path):
            continue
        try:
            if name in OBJECTS:
                content = read_object(path, CheckpointError, _AGAIN)
                problems += _template_problems(path, content.get("chat_template"))
            elif name in TEXTS:
                text = read_text(path, CheckpointError)
                problems += _template_problems(path, text if path.suffix == ".jinja" else None)
            else:
                require_regular(path)
        except CheckpointError as error:
            problems += error.problems
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}. {_AGAIN}")
    return problems


def _template_problems(path: Path, template: Any) -> Iterator[str]:
    """A sentence if a template is none; of several under names, those are left to who asks them."""
    if isinstance(template, str) and (reason := template_fault(template)):
        yield f"{path}: not a chat template: {reason}. {_AGAIN}"


def template_fault(text: str) -> str | None:
    """Why a text is no Jinja template; None where it is one."""
    from jinja2 import Environment, TemplateSyntaxError

    try:
        Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False).parse(text)  # noqa: S701
    except TemplateSyntaxError as error:
        # a tag of Transformers' own, such as generation
        return None if "unknown tag" in str(error) else str(error)
    except RecursionError:
        return "nested too deep"
    except ValueError as error:  # a number of thousands of digits
        return str(error)
    return None


def absurd_counts(config: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each number in a config of more layers or the like than any model has."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from (f"{key}.{sentence}" for sentence in absurd_counts(value))
        elif isinstance(value, int | float) and value > _MOST and _COUNT.search(key):
            yield f"{key}: is {shown(value)}, more than any model has"
