"""The model that a merged config describes, and whether a checkpoint fills it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import PlanError

if TYPE_CHECKING:
    import torch

    from evomerge.weights.models import Models


def empty_model(
    models: Models, folder: Path, dtype: torch.dtype, device: torch.device, **options: Any
) -> Any:
    """The merged architecture, its weights whatever was in memory.

    Args:
        folder: holds the merged config.
        options: for Transformers.

    Raises:
        PlanError: Transformers cannot build it.
    """
    require_config(models)
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config.get_text_config().tie_word_embeddings = not models.untied
        # every weight is filled by a plan: drawing random ones first takes minutes at 7B
        with device, no_init_weights():
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=False, **options
            )
    except (ValueError, ImportError) as error:
        raise PlanError(
            f"{models.base.folder}: Transformers cannot build this model: {error}"
        ) from None
    model.tie_weights()
    return model.eval().requires_grad_(False)


def require_config(models: Models) -> None:
    """Raise for weights without a config, of which Transformers can make no model.

    Raises:
        PlanError: it says so.
    """
    if models.base.bare:
        raise PlanError(
            f"{models.base.folder}: Transformers cannot build this model: no config.json says "
            "its model_type. Copy it from where the model comes from, or use engine: torch with "
            "a module of your own."
        )


def open_tokenizer(models: Models, folder: Path) -> Any:
    """The merged tokenizer.

    Args:
        folder: holds it.

    Raises:
        PlanError: there is none, or Transformers cannot open it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise PlanError(
            f"{models.base.folder}: Transformers cannot open its tokenizer: {error}"
        ) from None


def require_fit(
    models: Models,
    kind: str,
    live: Mapping[str, torch.Tensor],
    source: str = "its config.json",
    cure: str = "Repair the config.",
) -> None:
    """Raise unless every name of a plan has its place in the model, and every place its name.

    Args:
        kind: the class of the model.
        live: its tensors by name; those that share memory are one.
        source: what says what the model is like.
        cure: of shapes that differ.

    Raises:
        PlanError: names that the model does not have, or parts of it that no name fills.
    """
    folder = models.base.folder
    wanted = {slot.name: slot.shape for slot in models.slots}
    unknown = [name for name in wanted if name not in live]
    problems = []
    if unknown:
        problems.append(
            f"{folder}: {len(unknown)} tensors, {unknown[0]} first, are not parts of {kind}. "
            "The engine loads only checkpoints whose names are the module names."
        )
    known = [name for name in wanted if name in live]
    problems += [
        f"{folder}: {name} is {wanted[name]}, but {tuple(live[name].shape)} by {source}. {cure}"
        for name in known
        if live[name].shape != wanted[name]
    ]
    # on the meta device nothing has an address, but tied tensors are one object's storage
    filled = {memory_of(live[name]) for name in known}
    empty = [name for name, tensor in live.items() if memory_of(tensor) not in filled]
    if empty:
        problems.append(
            f"{folder}: the checkpoint lacks {len(empty)} tensors of {kind}, {empty[0]} first."
        )
    if problems:
        raise PlanError(problems)


def memory_of(tensor: torch.Tensor) -> int:
    """The same for tensors that share memory, on the meta device too."""
    address: int = tensor.untyped_storage()._cdata
    return address
