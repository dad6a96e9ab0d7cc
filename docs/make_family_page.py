"""Write docs/families.md from what was measured of every family: tests/families/results.json.

Run ``make docs``; ``make families`` measures anew.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "tests" / "families" / "results.json"
COLUMNS = ("linear", "ties", "slerp", "stack", "union")
_HEAD = """\
<!-- Made by docs/make_family_page.py from tests/families/results.json -->
# Families

Tiny random models of {count} families of Transformers were merged and loaded again by their Auto
class, without a missing, unexpected or mismatched key. `tests/families` does that:

- `linear`, `ties`, `slerp`: every tensor is what arithmetic on the sources' tensors gives;
- `union`: two tokenizers with some other tokens; every token's row is what the sources have for it;
- `stack`: blocks of two models in another order, some twice; the output is that of the same blocks
  run one after the other by hand. `in place`: blocks are what they are by their number, so that
  they are refused elsewhere, by name, but blocks of two models may be stacked in their places;
- `no tokens`: the model reads no text; `refused`: nothing is merged, and the message says why.

"""


def page() -> str:
    """The text of docs/families.md."""
    rows: dict[str, dict[str, str]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = [
        f"| family | class | {' | '.join(COLUMNS)} |",
        "|---|---" + "|---" * len(COLUMNS) + "|",
    ]
    lines += [
        f"| {kind} | {row['class']} | {' | '.join(_cell(row[c]) for c in COLUMNS)} |"
        for kind, row in rows.items()
    ]
    return _HEAD.format(count=len(rows)) + "\n".join([*lines, "", *_reasons(rows)]) + "\n"


def _cell(result: str) -> str:
    return re.split(r"[:]", result, maxsplit=1)[0]


def _reasons(rows: Mapping[str, Mapping[str, str]]) -> list[str]:
    said = [
        f"- {kind}, {column}: {' '.join(row[column].split(': ', 1)[1].split())}"
        for kind, row in rows.items()
        for column in COLUMNS
        if ": " in row[column]
    ]
    return ["## What is refused", "", *said] if said else []


def main() -> None:
    """Write the page if it has changed."""
    path, text = DOCS / "families.md", page()
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        sys.stderr.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
