"""Write docs/operators from the operators' docstrings and signatures, and from their presets.

Run ``make docs``. One page for each operator is written, and the two tables in
docs/operators/README.md; the rest of that file is written by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge import presets
from evomerge.cli.listing import genes
from evomerge.operators import Description, Setting, describe, get, modifiers
from evomerge.plugins import registry

FOLDER = Path(__file__).parent / "operators"
MADE = "<!-- Made by docs/make_operator_pages.py from evomerge/operators/{name}.py -->"
DOMAINS = {"true or false": "true, false", "whole number": "whole", "number": "", "word": ""}


def pages() -> dict[Path, str]:
    """Every file of docs/operators and what belongs in it."""
    names = registry.names("operators")
    index = FOLDER / "README.md"
    readme = index.read_text(encoding="utf-8")
    readme = _between(readme, "operators", "\n".join(_index(names)))
    rows = modifiers(get("task_arithmetic"))
    readme = _between(readme, "modifiers", "\n".join(_parameters(rows)))
    return {index: readme} | {FOLDER / f"{name}.md": page(name) for name in names}


def page(name: str) -> str:
    """The page of one operator."""
    operator = describe(get(name))
    parts = [
        MADE.format(name=name),
        f"# {name}",
        _text(operator.about),
        _text(operator.text),
        "\n".join(_facts(operator)),
        "## Parameters",
        "\n".join(_parameters(operator.settings)) if operator.settings else "None of its own.",
    ]
    if operator.modified:
        parts.append("Besides, those of all [modifiers](README.md#modifiers).")
    if operator.errors:
        parts += ["## Errors", _text(operator.errors)]
    parts += ["## Searched by default", *_searched(name), "## Source", _text(operator.source)]
    return "\n\n".join(parts) + "\n"


def _facts(operator: Description) -> Iterator[str]:
    found = get(operator.name)
    yield f"- merges {_text(operator.operands)}"
    if operator.needs:
        yield f"- needs {', '.join(f'`{n}`' if ':' in n else n for n in operator.needs)}"
    if found.random:
        yield "- draws random numbers, from the recipe's seed alone"
    if found.ordered:
        yield "- the order of the models matters"
    settings = ", ".join(f"`{key}: {_value(v)}`" for key, v in found.paper_defaults.items())
    yield f"- baseline of every search for it: {settings or 'the defaults'}"


def _parameters(settings: Iterable[Setting]) -> Iterator[str]:
    yield "| parameter | may be | default | |"
    yield "|---|---|---|---|"
    for setting in settings:
        domain = " ".join(filter(None, [DOMAINS[setting.kind], setting.domain])) or "any number"
        name = f"`{setting.name}`" + ", per source" * setting.per_source
        yield _row(name, domain, _value(setting.default), _text(setting.about))


def _searched(name: str) -> Iterator[str]:
    preset = presets.shipped("search_spaces") / f"{name}.yaml"
    if not preset.is_file():
        yield "Nothing."
        return
    comment = [
        line.removeprefix("#").strip()
        for line in preset.read_text(encoding="utf-8").splitlines()
        if line.startswith("#")
    ]
    link = f"[search_spaces/{name}.yaml](../../search_spaces/{name}.yaml)"
    yield f"{link}: {_text(' '.join(comment))}"
    rows = [_row(*_gene(gene)) for gene in genes(preset)]
    yield "\n".join(["| gene | from | to | scale | starts at |", "|---|---|---|---|---|", *rows])


def _gene(gene: Mapping[str, Any]) -> list[str]:
    name = f"`{gene['name']}`" + ", per source" * gene["per_source"]
    if gene["name"] == "order":
        return [name, "0", "1", "rank of the keys", "the order given"]
    if "choices" in gene:
        words = ", ".join(map(_value, gene["choices"]))
        return [name, words, "", "choice", _value(gene.get("initial", gene["choices"][0]))]
    if gene.get("simplex"):
        low, high = (_value(gene.get(key, limit)) for key, limit in (("low", -4), ("high", 4)))
        return [name, low, high, "logits of shares", "equal shares"]
    initial = _value(gene["initial"]) if "initial" in gene else "the middle"
    scale = "whole" if gene.get("kind") == "int" else gene.get("scale", "linear")
    return [name, _value(gene["low"]), _value(gene["high"]), scale, initial]


def _index(names: Sequence[str]) -> Iterator[str]:
    yield "| operator | | needs | |"
    yield "|---|---|---|---|"
    for name in names:
        operator, found = describe(get(name)), get(name)
        traits = [word for word in ("random", "ordered") if getattr(found, word)]
        needs = ", ".join(f"`{n}`" if ":" in n else n for n in operator.needs)
        yield _row(f"[{name}]({name}.md)", _text(operator.about), needs, ", ".join(traits))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _text(docstring: str) -> str:
    """A docstring's text in Markdown."""
    return docstring.replace("``", "`")


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return value if isinstance(value, str) else f"{value:g}"


def _between(text: str, label: str, table: str) -> str:
    """The text with what stands between the marks of ``label`` replaced."""
    marks = rf"(<!-- {label}[^>]*-->\n).*?(\n<!-- end of {label} -->)"
    found, count = re.subn(marks, lambda m: m[1] + table + m[2], text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"README.md: expected the marks of {label} once, found {count}")
    return found


def main() -> None:
    """Write what has changed, and remove pages of operators that are gone."""
    made = pages()
    for path, text in made.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stderr.write(f"wrote {path}\n")
    for path in sorted(set(FOLDER.glob("*.md")) - set(made)):
        path.unlink()
        sys.stderr.write(f"removed {path}\n")


if __name__ == "__main__":
    main()
