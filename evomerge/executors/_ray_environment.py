"""The runtime environment of workers on Ray, with the values of its variables."""

from __future__ import annotations

import os
from typing import Any

from evomerge.errors import ConfigError, Problem


def with_values(runtime_env: dict[str, Any]) -> dict[str, Any]:
    """A runtime environment whose variables without a value have that of this process.

    Raises:
        ConfigError: this process has none, for all such variables.
    """
    variables = runtime_env.get("env_vars")
    if not isinstance(variables, dict):
        return runtime_env
    values = {name: os.environ.get(name) if v is None else v for name, v in variables.items()}
    missing = [
        Problem(
            ("executor", "runtime_env", "env_vars", name),
            "has no value here: a run keeps the names of variables, not their values.",
            f"Export {name}, or add --set executor.runtime_env.env_vars.{name}=VALUE.",
        )
        for name, value in values.items()
        if value is None
    ]
    if missing:
        raise ConfigError(missing)
    return runtime_env | {"env_vars": {name: str(value) for name, value in values.items()}}
