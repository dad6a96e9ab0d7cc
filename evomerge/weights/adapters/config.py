"""The settings of a LoRA adapter, from its adapter_config.json.

Source: the file format of PEFT 0.21, ``peft/tuners/lora/config.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError, shown
from evomerge.files import read_object
from evomerge.recipes.places import numbered

FILE = "adapter_config.json"
_MERGE_IT = "Merge it into its base with PEFT's merge_and_unload and give that folder."

# Keys about training, and about which modules are changed, which the tensors' names say as well.
_HARMLESS = {
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "target_modules", "exclude_modules", "lora_dropout", "layers_to_transform"),
    *("layers_pattern", "megatron_config", "megatron_core", "eva_config", "corda_config"),
    *("lora_ga_config", "loftq_config", "runtime_config", "qalora_group_size", "unsloth_fixed"),
    "ensure_weight_tying",
}
_READ = {
    *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"),
    *("fan_in_fan_out", "modules_to_save", "init_lora_weights", "lora_bias", "bias"),
}
# Keys with which the adapter is no longer a weight plus a product of matrices.
_REFUSED = {
    "layer_replication": "it repeats blocks. Build the deeper model with slices first.",
    "trainable_token_indices": f"it replaces single token rows. {_MERGE_IT}",
    "alora_invocation_tokens": "it works after certain tokens only, which no weights can say.",
    "use_qalora": "it averages its inputs by group. Train the adapter without it.",
    "target_parameters": f"it changes parameters that are no layers. {_MERGE_IT}",
    "use_bdlora": f"its matrices are block-diagonal. {_MERGE_IT}",
    "arrow_config": "it chooses among adapters by token, which no weights can say.",
    "kasa_config": f"its matrices have a diagonal between them. {_MERGE_IT}",
    "monteclora_config": f"its matrices are drawn at random. {_MERGE_IT}",
}
# Keys that are read or passed over all the same, and what PEFT has there.
_KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("use_rslora", "use_dora", "fan_in_fan_out", "lora_bias"), bool),
    **{"base_model_name_or_path": str, "bias": str, "init_lora_weights": bool | str},
    **{"target_modules": list | str, "exclude_modules": list | str},
}
_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    str: "a word",
    bool | str: "true, false or a word",
    list | str: "a list of modules",
}
_LARGEST = 1e300  # of a factor

# Initializations that change the base's weights, so that the adapter fits another checkpoint.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """The settings that decide what a LoRA adapter adds.

    Attributes:
        rank: r of the modules that match no pattern.
        alpha: of the modules that match no pattern.
        ranks, alphas: module pattern to its own r and alpha.
        rslora: divide alpha by √r rather than by r.
        dora: rows are scaled to recorded magnitudes.
        transposed: weights are stored as (in, out).
        saved_modules: modules whose weights are stored in full.
        base: name of the model that it was trained on.
        target_modules: ends of the names of modules that are changed, or a regular expression.
        excluded_modules: the same, of modules that are not.
        blocks: the numbers of those that are changed; empty for all.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False
    dora: bool = False
    transposed: bool = False
    saved_modules: tuple[str, ...] = ()
    base: str | None = None
    target_modules: tuple[str, ...] | str = ()
    excluded_modules: tuple[str, ...] | str = ()
    blocks: tuple[int, ...] = ()

    def targets(self, module: str) -> bool:
        """Whether a module is among those that the adapter was made to change."""
        block = numbered(module)
        if self.blocks and (block is None or block.number not in self.blocks):
            return False
        is_saved = any(f".{saved}." in f".{module}." for saved in self.saved_modules)
        excluded = is_saved or _names(self.excluded_modules, module)
        return _names(self.target_modules, module) and not excluded

    def rank_of(self, module: str) -> int:
        """The rank r of one module."""
        return next(_matching(self.ranks, module), self.rank)

    def scale_of(self, module: str) -> float:
        """What B·A is multiplied by: α/r, with rank stabilization α/√r (arXiv:2312.03732)."""
        rank = self.rank_of(module)
        alpha = next(_matching(self.alphas, module), self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """The settings in a folder's adapter_config.json.

    Raises:
        CheckpointError: not JSON, not LoRA, or settings with which the adapter is no sum of
            weights; all of them at once.
    """
    path = folder / FILE
    content = read_object(path, CheckpointError, "Copy it again.")
    kind = content.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path}: peft_type is {shown(kind)}, expected 'LORA'. {_MERGE_IT}")
    if problems := [f"{path}: {problem}" for problem in _problems(content)]:
        raise CheckpointError(problems)
    return AdapterConfig(
        rank=content["r"],
        alpha=float(content["lora_alpha"]),
        ranks=content.get("rank_pattern") or {},
        alphas=content.get("alpha_pattern") or {},
        rslora=bool(content.get("use_rslora")),
        dora=bool(content.get("use_dora")),
        transposed=bool(content.get("fan_in_fan_out")),
        saved_modules=tuple(content.get("modules_to_save") or ()),
        base=content.get("base_model_name_or_path"),
        target_modules=_modules(content.get("target_modules")),
        excluded_modules=_modules(content.get("exclude_modules")),
        blocks=_numbers(content.get("layers_to_transform")),
    )


def _problems(content: Mapping[str, Any]) -> Iterator[str]:
    for key, value in content.items():
        if not value or key in _HARMLESS or key in _READ:
            continue
        why = _REFUSED.get(key, f"nobody here knows what this key does. {_MERGE_IT}")
        yield f"{key}: {why}"
    start = str(content.get("init_lora_weights")).lower()
    if start.startswith(_CHANGES_BASE):
        yield (
            f"init_lora_weights is {shown(start)}, which changes the base too. Save the adapter "
            "with PEFT's path_initial_model_for_weight_conversion."
        )
    for key, kinds in _KINDS.items():
        if not isinstance(content.get(key), kinds | None):
            yield f"{key}: expected {_WORDS[kinds]}, got {shown(content[key])}"
    if not _is_rank(content.get("r")):
        yield f"r: expected a whole number above 0, got {shown(content.get('r'))}"
    if not _is_number(content.get("lora_alpha")):
        yield f"lora_alpha: expected a number, got {shown(content.get('lora_alpha'))}"
    for key, fits in (("rank_pattern", _is_rank), ("alpha_pattern", _is_number)):
        pattern = content.get(key) or {}
        if not isinstance(pattern, dict):
            yield f"{key}: expected modules and numbers, got {shown(pattern)}"
            continue
        for module, value in pattern.items():
            if not fits(value):
                yield f"{key}.{module}: expected a number above 0, got {shown(value)}"
            try:
                re.compile(module)
            except re.error:
                yield f"{key}.{module}: not a regular expression"
    for key in ("target_modules", "exclude_modules"):
        try:
            re.compile(value if isinstance(value := content.get(key), str) else "")
        except re.error:
            yield f"{key}: {shown(value)} is not a regular expression"
    blocks = content.get("layers_to_transform")
    if not all(type(number) is int for number in (blocks if isinstance(blocks, list) else [])) or (
        not isinstance(blocks, list | int | None)
    ):
        yield f"layers_to_transform: expected numbers of blocks, got {shown(blocks)}"
    saved = content.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        yield f"modules_to_save: expected a list of modules, got {shown(saved)}"


def _modules(value: list[str] | str | None) -> tuple[str, ...] | str:
    return value if isinstance(value, str) else tuple(map(str, value or ()))


def _numbers(value: list[int] | int | None) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value or ())


def _names(modules: tuple[str, ...] | str, module: str) -> bool:
    """Whether a module is among some, as PEFT reads them."""
    if isinstance(modules, str):
        return re.fullmatch(modules, module) is not None
    return any(f".{module}".endswith(f".{name}") for name in modules)


def _is_rank(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _LARGEST


def _matching(patterns: Mapping[str, Any], module: str) -> Iterator[Any]:
    """Values of the patterns that match a module; as in PEFT, the end of its dotted name."""
    return (v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
