"""The model that a merged config describes: what fits it, and how it is filled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import PlanError
from evomerge.weights.architecture.conformity import reason
from evomerge.weights.architecture.empty import unfilled
from evomerge.weights.architecture.names import DEPTH_KEYS
from evomerge.weights.output.metadata import merged_config

if TYPE_CHECKING:
    import torch

    from evomerge.engines._packing import Packed
    from evomerge.weights.merge import Out
    from evomerge.weights.models import Models
    from evomerge.weights.plan import Plan
    from evomerge.weights.steps import Step


def empty_model(
    models: Models, folder: Path, dtype: torch.dtype, device: torch.device, **options: Any
) -> Any:
    """A Transformers model of the merged architecture, whose weights have no defined values.

    Args:
        folder: holds the merged config.
        options: for Transformers.

    Raises:
        PlanError: Transformers cannot build it.
    """
    require_config(models)
    from transformers import AutoConfig, AutoModelForCausalLM

    tensors = sum(len(one.tensors) for one in models.members)
    # a wrong value in the config makes it raise anything; where it takes memory, so may the machine
    expected = (Exception,) if device.type == "meta" else (ValueError, ImportError)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config.get_text_config().tie_word_embeddings = config.tie_word_embeddings
        # every weight is filled by a plan: drawing random ones first takes minutes at 7B
        with unfilled(tensors, device):
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=False, **options
            )
    except expected as error:
        raise _refusal(models, "Transformers cannot build this model", error) from None
    model.tie_weights()
    return model.eval().requires_grad_(False)


def require_config(models: Models) -> None:
    """Raise for weights without a config, of which Transformers can make no model.

    Raises:
        PlanError: the base has no config.json.
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
        folder: holds its files.

    Raises:
        PlanError: there is none, or Transformers cannot open it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except MemoryError:
        raise
    except Exception as error:  # the tokenizers library raises nothing more special
        raise _refusal(models, "Transformers cannot open its tokenizer", error) from None


def _refusal(models: Models, what: str, error: Exception) -> PlanError:
    """What is raised in place of an error of Transformers."""
    why = reason(error)
    if "trust_remote_code" in str(error):  # its own words, and no key of ours
        why = (
            "it needs Python of its own, which evomerge never runs. Merge it with 'evomerge "
            "build', or search with engine: torch and a module of yours."
        )
    return PlanError(f"{models.base.folder}: {what}: {why}")


def generation_config(models: Models, folder: Path) -> Any:
    """The merged model's `GenerationConfig`; None where it has none.

    Args:
        folder: holds its file.

    Raises:
        PlanError: Transformers cannot read it.
    """
    from transformers import GenerationConfig

    if not (folder / "generation_config.json").exists():
        return None
    try:
        return GenerationConfig.from_pretrained(folder)
    except Exception as error:  # whatever a wrong value in it makes it raise
        raise PlanError(
            f"{models.base.folder}: Transformers cannot read its generation config: {reason(error)}"
        ) from None


def require_fit(
    models: Models,
    kind: str,
    live: Mapping[str, torch.Tensor],
    wanted: Mapping[str, tuple[int, ...]],
    *,
    source: str = "its config.json",
    cure: str = "Repair the config.",
) -> None:
    """Raise unless the merged tensors are exactly those of a live model, by name and shape.

    Args:
        kind: name of the live model's class.
        live: its tensors by name; a tensor that shares another's memory is filled with it.
        wanted: the shapes of the merged tensors by the names that they have in the model.
        source: what the shapes of the live model come from.
        cure: for names and shapes that differ.

    Raises:
        PlanError: all tensors that the model lacks, that it has in another shape, or that nothing
            fills.
    """
    folder = models.base.folder
    unknown = [name for name in wanted if name not in live]
    problems = []
    if unknown:
        problems.append(
            f"{folder}: {len(unknown)} tensors, {unknown[0]} first, are not parts of {kind}. {cure}"
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


def require_same_tensors(plan: Plan, live: Set[str]) -> None:
    """Raise unless a plan makes exactly the tensors of these names.

    Raises:
        PlanError: names that only one of both has.
    """
    planned = {step.slot.name for step in plan.steps}
    if planned != live:
        stray = sorted(planned ^ live)
        raise PlanError(
            f"the plan and the open models differ in {len(stray)} tensors, {stray[0]} first. "
            "Plan the recipe for the models that the engine was opened with."
        )


def has_the_blocks(plan: Plan, live: Models) -> bool:
    """Whether the plan has as many blocks as the live model or fewer, of the same kinds.

    A kind is what a config says of each block, as where sliding and full attention alternate.
    """
    depth = plan.models.layers
    if depth > live.layers:
        return False
    differences = _differences(plan, live).values()
    return not any(isinstance(value, list) and len(value) == depth for value in differences)


def require_same_architecture(plan: Plan, live: Models) -> None:
    """Raise unless the plan's tensors are those of the live model, or of its first blocks.

    A block all of whose tensors are zero adds nothing to the residual stream: it is the identity.

    Raises:
        PlanError: other tensors, or the configs differ.
    """
    depth = plan.models.layers
    beyond = {slot.name for slot in live.slots if (slot.place.layer or 0) >= max(depth, 1)}
    require_same_tensors(plan, {slot.name for slot in live.slots} - beyond)
    if other := sorted(_differences(plan, live)):
        raise PlanError(
            f"the plan and the open models differ in {', '.join(other)} of their configs. "
            "Open an engine for these models."
        )


def _differences(plan: Plan, live: Models) -> dict[str, Any]:
    """Keys of the plan's config that differ from the live model's, but for the number of blocks."""
    if plan.models.composition == live.composition:
        return {}
    own, open_ = (merged_config(models, "float32") for models in (plan.models, live))
    return dict(_differing(own, open_, plan.models.layers))


def _differing(
    own: Mapping[str, Any], live: Mapping[str, Any], depth: int
) -> Iterator[tuple[str, Any]]:
    """Keys and own values that differ by more than the blocks that are left out at the end."""
    for key in own.keys() | live.keys():
        mine, theirs = own.get(key), live.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from _differing(mine, theirs, depth)
        elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == depth:
            if theirs[:depth] != mine:
                yield key, mine
        elif mine != theirs and key not in DEPTH_KEYS:
            yield key, mine


def fill(targets: Mapping[str, torch.Tensor | Packed], plan: Plan, device: torch.device) -> None:
    """Merge a plan into tensors that exist already.

    Args:
        targets: by the names of the plan, contiguous or `Packed`; all are overwritten.
        device: where the arithmetic is done.

    Raises:
        PlanError: the plan has other tensors.
        CandidateError, CheckpointError: as `merge_into`.
    """
    import torch

    from evomerge.weights.merge import merge_into

    require_same_tensors(plan, targets.keys())

    def into(step: Step) -> Out:
        target = targets[step.slot.name]
        whole = target
        if not isinstance(whole, torch.Tensor):  # it is taken apart when it is complete
            whole = torch.empty(step.slot.shape, dtype=step.dtype, device=device)
        flat = whole.view(-1)

        def out(start: int, values: torch.Tensor) -> None:
            end = start + values.numel()
            flat[start:end].copy_(values)
            if end == flat.numel() and not isinstance(target, torch.Tensor):
                target.fill(whole)

        return out

    merge_into(plan, into, device)


def memory_of(tensor: torch.Tensor) -> int:
    """An identity of a tensor's memory, on the meta device too: equal where memory is shared."""
    address: int = tensor.untyped_storage()._cdata
    return address
