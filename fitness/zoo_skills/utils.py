"""Reads the zoo's task data for lm-eval, wherever lm-eval is started from."""

from __future__ import annotations

import json
from pathlib import Path

from datasets import Dataset, DatasetDict

DATA_FOLDER = Path(__file__).resolve().parent / "data"


def load(task: str, split: str, **_: object) -> DatasetDict:
    """One split of one task, under the name ``test``.

    Args:
        task: ``arithmetic``, ``strings``, ``kanji`` or ``cross``.
        split: ``train``, ``search`` or ``held_out``; cross has no ``train``.
        _: what lm-eval adds of its own, such as the model's name.
    """
    path = DATA_FOLDER / f"{task}.{split}.jsonl"
    if not path.is_file():
        here = sorted(p.name.removesuffix(".jsonl") for p in DATA_FOLDER.glob("*.jsonl"))
        raise FileNotFoundError(f"zoo_skills: no data for {task}.{split}; there are: {here}")
    # Read by hand: the json loader of `datasets` would keep a copy in the user's cache.
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return DatasetDict({"test": Dataset.from_list(rows)})
