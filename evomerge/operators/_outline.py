"""An operator's declaration, read from its file without importing torch: for listings.

Torch and compiled code take seconds to import, and a declaration needs neither.
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
    """The operator called ``name``, without the body of its function.

    Only the declaration is run, with the imports and constants that it uses. A file in which these
    are not plain statements is imported instead.

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
    module = module_from_spec(spec)  # not in sys.modules
    module.__doc__ = ast.get_docstring(tree, clean=False)
    code = compile(declaration, str(spec.origin), "exec", dont_inherit=True)
    try:
        exec(code, vars(module))  # noqa: S102 - as importing it would
    except Exception:  # importing the file raises a better error
        return get(name)
    declared = getattr(module, name, None)
    return declared if isinstance(declared, Operator) else get(name)


def _declaration(tree: ast.Module, name: str) -> ast.Module | None:
    """The operator's function, after the statements that define the names it uses.

    None if other statements use these names too, as where a table is filled line by line.
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
    """Whether a statement defines names and does nothing else."""
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
    """Drop all of a function but its docstring and the types of its keywords."""
    function.body = [ast.Expr(ast.Constant(ast.get_docstring(function, clean=False)))]
    function.returns = None
    for argument in (*function.args.posonlyargs, *function.args.args):
        argument.annotation = None
