"""Measure every family anew and write results.json; `make families` runs it (15 minutes).

Every row is written when it is measured, so that a run that is broken off keeps those that it has.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

from all_families import RESULTS, families, results
from measure import COLUMNS, Family, measured


def main(names: list[str]) -> None:
    """Measure these families, or all, and keep what is known of the others."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    found = {kind: row for kind, row in results().items() if kind in families()}
    for kind, auto in families().items():
        if names and kind not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                family = Family(kind, auto, Path(folder))
                family.live("a")
            except Exception as error:
                sys.stderr.write(f"{kind}: cannot be made tiny here: {error!r:.150}\n")
                found.pop(kind, None)
                _write(found)
                continue
            row = {"class": family.name, "auto": auto}
            for column in COLUMNS:
                try:
                    row[column] = measured(family, column)
                except Exception as error:
                    row[column] = f"WRONG: {error!r:.200}"
                    sys.stderr.write(f"{kind}: {column}: {row[column]}\n")
            found[kind] = row
            _write(found)


def _write(found: Mapping[str, Mapping[str, str]]) -> None:
    temporary = RESULTS.with_suffix(".partial")
    temporary.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(RESULTS)


if __name__ == "__main__":
    main(sys.argv[1:])
