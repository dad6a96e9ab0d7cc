"""YAML files: read strictly, written plainly."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from evomerge.errors import ConfigError, shown
from evomerge.files import read_text
from evomerge.keys import MOST_LEVELS, plain, text_problem
from evomerge.printable import is_printable

_MOST_COPIES = 50_000  # values that aliases may add to those that are written out
_MOST_BYTES = 1 << 26  # of a file: nobody writes more, and weights are more
_TAG = "tag:yaml.org,2002:"


class _StrictLoader(yaml.SafeLoader):
    """Text, numbers, flags, null, lists, keys with values and nothing else; no key given twice.

    Dates are text, as in YAML 1.2. Keys that ``<<`` merges in are those of a mapping, or of a list
    of mappings of which the earlier win; a mapping's own keys win over them.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open: list[str | None] = []  # anchors of the node at hand and those around it
        self._written = self._copied = 0  # values so far
        self._sizes: dict[str, int] = {}  # by anchor, how many values an alias stands for

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node, refused where it would have no end, or more values than anyone means."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self._open:
                raise _wrong(event, f"*{event.anchor} is a part of itself")
            self._copied += self._sizes.get(str(event.anchor), 0)
            if self._copied > _MOST_COPIES:
                text = f"with all aliases written out it has more than {_MOST_COPIES} values more"
                raise _wrong(event, text)
            return super().compose_node(parent, index)
        if len(self._open) >= MOST_LEVELS:
            raise _wrong(event, f"more than {MOST_LEVELS} levels of keys and lists")
        before = self._written + self._copied
        self._written += 1
        self._open.append(event.anchor)
        node = super().compose_node(parent, index)
        self._open.pop()
        if event.anchor is not None:
            self._sizes[event.anchor] = self._written + self._copied - before
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        """What the document holds; every alias is a copy of its own."""
        return self._value(node)

    def _value(self, node: yaml.Node) -> Any:
        tag = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and tag == "map":
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode) and tag == "seq":
            return [self._value(item) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and tag in _SCALARS:
            try:
                return _SCALARS[tag](self, node)
            except (ValueError, LookupError, ArithmeticError):
                raise _wrong(node, f"{shown(node.value)} is no {_WORDS[tag]}") from None
        word = f"!!{tag}" if tag != node.tag else tag
        raise _wrong(node, f"the tag {shown(word)} is not known here. Remove it")

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] | None = None
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                if merged is not None:
                    text = "key '<<' is given twice. Give it a list: '<<: [*one, *other]'"
                    raise _wrong(key_node, text)
                merged = self._merged(value_node)
                continue
            key = self._value(key_node)
            if not isinstance(key, str):
                raise _wrong(key_node, f"the key {shown(key)} is no text. Put it in quotes")
            if key in own:
                raise _wrong(key_node, f"key {shown(key)} is given twice")
            own[key] = self._value(value_node)
        return (merged or {}) | own

    def _merged(self, node: yaml.Node) -> dict[str, Any]:
        """The keys that ``<<`` stands for."""
        value = self._value(node)
        every = value if isinstance(value, list) else [value]
        if not all(isinstance(one, dict) for one in every):
            raise _wrong(node, f"'<<' takes keys and values, or a list of such, got {shown(value)}")
        return {key: inner for one in reversed(every) for key, inner in one.items()}

    def _text(self, node: yaml.ScalarNode) -> str:
        # JSON writes a character outside the first 65,536 as two halves
        text = str(node.value)
        with suppress(UnicodeDecodeError):
            text = text.encode("utf-16", "surrogatepass").decode("utf-16")
        if problem := text_problem(text):
            raise _wrong(node, problem)
        return text

    def _number(self, node: yaml.ScalarNode) -> float:
        value = float(self.construct_yaml_float(node))
        if value in (float("inf"), float("-inf")) and "inf" not in node.value.lower():
            raise OverflowError
        return value

    def _whole(self, node: yaml.ScalarNode) -> int:
        value = int(self.construct_yaml_int(node))
        float(value)  # nothing here computes with more than 308 digits
        return value


_SCALARS: dict[str, Callable[[Any, yaml.ScalarNode], Any]] = {
    "null": SafeConstructor.construct_yaml_null,
    "bool": SafeConstructor.construct_yaml_bool,
    "int": _StrictLoader._whole,
    "float": _StrictLoader._number,
    "str": _StrictLoader._text,
}
_WORDS = {"null": "null", "bool": "truth value", "int": "number", "float": "number", "str": "text"}


def _wrong(place: yaml.Node | yaml.Event, text: str) -> yaml.YAMLError:
    mark = place.start_mark
    assert mark is not None
    return yaml.YAMLError(f"line {mark.line + 1}, column {mark.column + 1}: {text}")


def parse_value(text: str, where: str) -> Any:
    """The value that a YAML text holds.

    Raises:
        ConfigError: not YAML, or a key given twice.
    """
    try:
        return _StrictLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {_reason(error)}") from None


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping that a YAML text holds.

    Raises:
        ConfigError: not YAML, a key given twice, or not a mapping at the top.
    """
    documents = parse_documents(text, where)
    if len(documents) > 1:
        raise ConfigError(f"{where}: expected one YAML document, got {len(documents)}")
    return documents[0]


def parse_documents(text: str, where: str) -> list[dict[str, Any]]:
    """The mappings that a YAML text holds, at least one.

    Raises:
        ConfigError: as `parse_yaml`, of any document.
    """
    try:
        documents = list(yaml.load_all(text, Loader=_StrictLoader))  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {_reason(error)}") from None
    for content in documents or [None]:
        if not isinstance(content, dict):
            raise ConfigError(f"{where}: expected keys and values, got {type(content).__name__}")
    return documents


def _reason(error: yaml.YAMLError) -> str:
    return f"not valid YAML: {' '.join(str(error).split())}"


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: no such file, or `parse_yaml` refuses it.
    """
    return parse_yaml(_text(path), str(path))


def read_documents(path: Path) -> list[dict[str, Any]]:
    """The mappings in a YAML file of one or several documents.

    Raises:
        ConfigError: no such file, or `parse_documents` refuses it.
    """
    return parse_documents(_text(path), str(path))


def _text(path: Path) -> str:
    with suppress(OSError, ValueError):  # `read_text` says so
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path}: expected a YAML file, got one of more than 64 MiB")
    return read_text(path, ConfigError)


class _Dumper(yaml.SafeDumper):
    """Lists on one line, so that a per-layer list reads as a row; no text that a terminal obeys."""

    def analyze_scalar(self, scalar: str) -> Any:
        analysis: Any = super().analyze_scalar(scalar)
        if not _is_seen(scalar):
            analysis.allow_flow_plain = analysis.allow_block_plain = False
            analysis.allow_single_quoted = analysis.allow_block = False
        return analysis

    def write_double_quoted(self, text: str, split: bool = True) -> None:
        given = self.allow_unicode
        self.allow_unicode = given and _is_seen(text)
        super().write_double_quoted(text, split)
        self.allow_unicode = given


def _is_seen(text: str) -> bool:
    return is_printable(re.sub(r"[\n\t]", "", text))


_Dumper.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, True)
)

# a number in YAML 1.2 and in Python, but a word to PyYAML, which reads YAML 1.1: 1e-05
_POWER_OF_TEN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z")
for _kind in (_StrictLoader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _POWER_OF_TEN, list("-+.0123456789"))
_StrictLoader.yaml_implicit_resolvers = {
    first: [one for one in rules if one[0] not in (f"{_TAG}timestamp", f"{_TAG}value")]
    for first, rules in _StrictLoader.yaml_implicit_resolvers.items()
}


def dump_yaml(content: dict[str, Any]) -> str:
    """YAML text with keys in the order given; nested lists of mappings stay readable blocks.

    Raises:
        ConfigError: what `parse_yaml` would not give back, such as a path that is not UTF-8.
    """
    return yaml.dump(plain(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
