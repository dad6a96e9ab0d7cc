"""Operators as their files declare them, without what they compute with: for listings.

Torch and compiled code take seconds to import, and nothing that an operator says of itself needs
them.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib.abc import InspectLoader
from importlib.util import find_spec, module_from_spec

from evomerge.operators._operator import Operator, get
from evomerge.plugins import registry


@cache
def outline(name: str) -> Operator:
    """The operator called ``name``, but for the body of its function.

    Of its file only the declaration is run, and the imports and constants that this names. Where
    they are not plain statements, the file is imported.

    Raises:
        ConfigError: as `get`.
    """
    known = name in registry.names("operators")
    spec = find_spec(f"{__package__}.{name}") if known else None
    if spec is None or not isinstance(spec.loader, InspectLoader):
        return get(name)
    tree = ast.parse(spec.loader.get_source(spec.name) or "")
    declaration = _declaration(tree, name)
    if declaration is None:
        return get(name)
    module = module_from_spec(spec)  # which nobody else sees
    module.__doc__ = ast.get_docstring(tree, clean=False)
    code = compile(declaration, str(spec.origin), "exec", dont_inherit=True)
    try:
        exec(code, vars(module))  # noqa: S102 - as importing it would
    except Exception:  # something is missing, or wrong: the import says what
        return get(name)
    found = getattr(module, name, None)
    return found if isinstance(found, Operator) else get(name)


def _declaration(tree: ast.Module, name: str) -> ast.Module | None:
    """The operator's function, and before it the statements that define what it names.

    None where other statements work on these too, as on a table that is filled line by line.
    """
    kept: list[ast.stmt] = []
    left: list[ast.stmt] = []
    needed = {name}
    for statement in reversed(tree.body):
        if not needed & _defined(statement):
            left.append(statement)
            continue
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            _empty(statement)
        needed |= _named(statement)
        kept.append(statement)
    own = {defined for statement in kept for defined in _defined(statement)}
    if any(own & _named(statement) for statement in left if not _only_defines(statement)):
        return None
    return ast.fix_missing_locations(ast.Module(kept[::-1], type_ignores=[]))


def _only_defines(statement: ast.stmt) -> bool:
    """Whether it makes new names and changes nothing else."""
    simple = (ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    return isinstance(statement, simple) and bool(_defined(statement))


def _named(statement: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def _defined(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
    return {node.id for node in names if isinstance(node.ctx, ast.Store)}


def _empty(function: ast.FunctionDef) -> None:
    """Keep the docstring, and the types of the keywords."""
    function.body = [ast.Expr(ast.Constant(ast.get_docstring(function, clean=False)))]
    function.returns = None
    for argument in (*function.args.posonlyargs, *function.args.args):
        argument.annotation = None
