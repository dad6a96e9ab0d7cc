"""YAML files: read strictly, written plainly."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from evomerge.errors import ConfigError
from evomerge.files import read_text


class _StrictLoader(yaml.SafeLoader):
    """``yaml.safe_load``, except that a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen and key != "<<":
                line = key_node.start_mark.line + 1
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice (line {line})")
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def parse_value(text: str) -> Any:
    """The value that a YAML text holds.

    Raises:
        yaml.YAMLError: not YAML, or a key given twice.
    """
    return _StrictLoader(text).get_single_data()


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
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    for content in documents or [None]:
        if not isinstance(content, dict):
            raise ConfigError(f"{where}: expected keys and values, got {type(content).__name__}")
    return documents


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: no such file, or `parse_yaml` refuses it.
    """
    return parse_yaml(read_text(path, ConfigError), str(path))


def read_documents(path: Path) -> list[dict[str, Any]]:
    """The mappings in a YAML file of one or several documents.

    Raises:
        ConfigError: no such file, or `parse_documents` refuses it.
    """
    return parse_documents(read_text(path, ConfigError), str(path))


class _Dumper(yaml.SafeDumper):
    """Lists on one line, so that a per-layer list reads as a row."""


_Dumper.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, True)
)

# a number in YAML 1.2 and in Python, but a word to PyYAML, which reads YAML 1.1: 1e-05
_POWER_OF_TEN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z")
for _kind in (_StrictLoader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _POWER_OF_TEN, list("-+.0123456789"))


def dump_yaml(content: dict[str, Any]) -> str:
    """YAML text with keys in the order given; nested lists of mappings stay readable blocks."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
