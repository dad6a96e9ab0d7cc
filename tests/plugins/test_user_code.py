"""Functions in a person's own files, and what these import from beside themselves."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.errors import ConfigError
from evomerge.plugins.user_code import code_files, content_digest, load_function

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes files into a folder, by their names there; gives the folder."""

    def files(folder: str = "a", **texts: str) -> Path:
        for name, text in texts.items():
            path = tmp_path / folder / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / folder

    return files


def init(folder: Path, text: str = "") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text(text)


def call(folder: Path, reference: str = "main.py:f") -> Any:
    return load_function(f"{folder}/{reference}")()


def test_files_of_one_name_in_two_folders_are_reported_apart(write: Write) -> None:
    main = "import helpers\ndef f():\n    import later\n    return helpers.NAME + later.NAME\n"
    before, modules = list(sys.path), set(sys.modules)
    folders = [
        write(name, main=main, helpers=f"NAME = {name!r}", later=f"NAME = {name!r}.upper()")
        for name in ("a", "b")
    ]
    functions = [load_function(f"{folder}/main.py:f") for folder in folders]
    for _ in range(2):
        assert [function() for function in functions] == ["aA", "bB"]
    assert sys.path == before
    assert set(sys.modules) == modules


def test_what_two_files_of_a_folder_share_is_one(write: Write) -> None:
    folder = write(
        net="class Net: pass\ndef build():\n    return Net()\n",
        score="from net import Net\ndef f(module):\n    return isinstance(module, Net)\n",
    )
    module = call(folder, "net.py:build")
    assert load_function(f"{folder}/score.py:f", "module")(module) is True


def test_packages_are_found_with_and_without_an_init(write: Write) -> None:
    folder = write(
        main="from kit import parts\nfrom bare.one import ONE\ndef f(): return parts.TWO + ONE",
        kit__parts="from . import deep\nfrom .deep.down import DOWN as TWO\n",
        kit__deep__down="from ..two import TWO as DOWN\n",
        kit__two="TWO = 2",
        bare__one="ONE = 1",
    )
    init(folder / "kit")
    init(folder / "kit" / "deep")
    assert call(folder) == 3
    assert [str(path.relative_to(folder)) for path in code_files(f"{folder}/main.py:f")] == [
        *("main.py", "bare/one.py", "kit/__init__.py", "kit/deep/__init__.py"),
        *("kit/deep/down.py", "kit/parts.py", "kit/two.py"),
    ]


def test_modules_of_pythons_own_come_first_and_installed_ones_last(write: Write) -> None:
    folder = write(
        main="import random, yaml, datasets_of_ours\ndef f():\n    return random, yaml.NAME\n",
        random="",
        yaml="NAME = 'ours'",
        datasets_of_ours="",
    )
    (folder / "torch").mkdir()  # data, and no package
    (folder / "main.py").write_text("import torch.nn\n" + (folder / "main.py").read_text())
    assert call(folder) == (sys.modules["random"], "ours")
    assert sys.modules["yaml"] is yaml


def test_a_folder_without_an_init_does_not_hide_an_installed_package(write: Write) -> None:
    folder = write(
        main="from yaml import nodes\nfrom mine import nodes as own\n"
        "def f():\n    return nodes.__name__, own.NAME\n",
        yaml__nodes="NAME = 1\n",
        mine__nodes="NAME = 2\n",
    )
    assert call(folder) == ("yaml.nodes", 2)


def test_a_file_called_like_what_it_imports_means_the_installed_one(write: Write) -> None:
    folder = write(yaml="import yaml\ndef f():\n    return yaml\n")
    assert call(folder, "yaml.py:f") is yaml


def test_the_digest_is_of_all_that_is_imported_and_of_nothing_else(write: Write) -> None:
    main = "import one\ndef f():\n    from two import TWO\n"
    texts = {"main": main, "one": "import three", "two": "TWO = 2", "three": "", "other": ""}
    reference = f"{write(**texts)}/main.py:f"
    digest = content_digest(reference)
    assert content_digest(f"{write('b', **texts)}/main.py:f") == digest
    write(other="changed")
    assert content_digest(reference) == digest
    seen = {digest}
    for name in ("one", "two", "three"):
        write(**{name: texts[name] + "\n# changed"})
        seen.add(content_digest(reference))
    assert len(seen) == 4


def test_the_digest_of_a_file_alone_is_of_the_function_and_its_text(write: Write) -> None:
    folder = write(main="import math\n")
    expected = hashlib.sha256(b"f\0import math\n").hexdigest()
    assert content_digest(f"{folder}/main.py:f") == expected


def test_what_has_changed_is_run_again(write: Write) -> None:
    folder = write(main="import one\ndef f():\n    return one.ONE\n", one="ONE = 1")
    before = load_function(f"{folder}/main.py:f")
    write(one="ONE = 2")
    assert (before(), call(folder)) == (1, 2)


def test_a_import_that_cannot_be_run_is_reported(write: Write) -> None:
    folder = write(main="import one\n", one="import nonesuch")
    said = "main.py: cannot be run: ModuleNotFoundError: No module named 'nonesuch'"
    with pytest.raises(ConfigError, match=said):
        call(folder)
    write(one="def f(:")
    with pytest.raises(ConfigError, match=r"main.py: cannot be run: SyntaxError.*one.py"):
        call(folder)
    write(main="from one import f", one="def f():\n    return 3")
    assert call(folder) == 3


def test_a_file_that_no_import_statement_names_is_not_found(write: Write) -> None:
    folder = write(main="import importlib\nimportlib.import_module('unseen')", unseen="")
    with pytest.raises(ConfigError, match="No module named 'unseen'"):
        call(folder)
