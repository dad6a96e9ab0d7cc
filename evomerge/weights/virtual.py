"""A recipe in place of a model: its tensors are merged when they are read."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import CheckpointError
from evomerge.files import read_object
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.files.headers import DTYPES, TensorInfo
from evomerge.weights.output.metadata import write_metadata

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.weights.plan import Plan
    from evomerge.weights.steps import Step

_KEPT_BYTES = 1 << 28  # of tensors that several readers may want
_CODES = {f"torch.{name}": code for code, name in DTYPES.items()}


class VirtualCheckpoint(Checkpoint):
    """The checkpoint that a plan would be built into, without its weights on disk.

    Args:
        plan: of the inner recipe.
        merge_one: merges one tensor of a plan, as `evomerge.weights.merge.merge_one`.

    Attributes:
        folder: holds config and tokenizer as long as this object lives.
    """

    def __init__(self, plan: Plan, merge_one: Callable[[Plan, Step], Tensor]) -> None:
        self.plan, self._merge_one = plan, merge_one
        self.files = None
        self.folder = Path(tempfile.mkdtemp(prefix="evomerge-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        write_metadata(plan.models, self.folder, plan.recipe.dtype)
        config = self.folder / "config.json"
        self.config = read_object(config, CheckpointError) if config.exists() else {}
        self._steps = {step.slot.name: step for step in plan.steps}
        self.tensors = {
            name: TensorInfo(self.folder, _CODES[str(step.dtype)], tuple(step.slot.shape), 0, 0)
            for name, step in sorted(self._steps.items())
        }
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Future[Tensor]] = OrderedDict()

    @property
    def note(self) -> str | None:
        """What a user should know of its models."""
        return " ".join(self.plan.models.notes) or None

    @property
    def on_disk(self) -> dict[Path, Checkpoint]:
        """The models of its recipe, by folder."""
        return self.plan.models.checkpoints

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the recipe and of its models' fingerprints."""
        models = self.plan.models
        prints = [self.plan.recipe.digest, models.base.fingerprint]
        prints += [source.fingerprint for source in models.sources.values()]
        return hashlib.sha256(" ".join(prints).encode()).hexdigest()

    def read(self, name: str) -> Tensor:
        """The merged tensor; treat it as read-only.

        The last ones are kept, so that recipes with a common ancestor merge it once; threads that
        want the same tensor wait for the first.

        Raises:
            CheckpointError, CandidateError, PlanError: as `merge`.
        """
        with self._lock:
            is_first = name not in self._kept
            promise = self._kept.setdefault(name, Future())
            self._kept.move_to_end(name)
        if is_first:
            try:
                promise.set_result(self._merge_one(self.plan, self._steps[name]))
            except BaseException as error:
                with self._lock:
                    self._kept.pop(name, None)
                promise.set_exception(error)
        tensor = promise.result()
        with self._lock:  # drop the tensors read longest ago, but never the last one
            done = {n: f.result().nbytes for n, f in self._kept.items() if f.done()}
            for key in list(done)[:-1]:
                if sum(done.values()) <= _KEPT_BYTES:
                    break
                del done[key], self._kept[key]
        return tensor

    def non_finite_in(self, name: str) -> str | None:
        """Always None: merging a tensor that is not finite raises already."""
        return None
