"""A live PyTorch module of the user's own: a classifier, an encoder, a U-Net, anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evomerge.engines import Engine
from evomerge.engines._architecture import fill, require_fit
from evomerge.engines._devices import present, release, torch_device
from evomerge.engines._process import kept_generators, use_threads
from evomerge.errors import ConfigError, Problem
from evomerge.keys import AtOnce, Threads
from evomerge.plugins.user_code import code_files, content_digest, load_function

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from evomerge.engines._slots import WeightSlots
    from evomerge.weights.models import Models
    from evomerge.weights.plan import Plan


class TorchEngine(Engine):
    """The module that a function of the user's makes, scored by functions of the user's.

    The tensors of a checkpoint fill the parameters and persistent buffers of the module that have
    the same names in its ``state_dict``.

    Args:
        module: ``path.py:function``; the function takes nothing and returns a `torch.nn.Module`,
            whose weights are replaced.
        dtype: of the live module; ``auto`` leaves it as it is made. Weights are rounded to the
            recipe's dtype first, so that the scores are those of the written checkpoint.
        device: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes a GPU if there is one.
        threads: CPU threads of this process; None leaves them alone. One is best for small modules.
        at_once: candidates that are scored in one pass by `torch.func.vmap`, where the scorer calls
            only torch; each takes memory of its own. Otherwise they are scored one by one.

    Raises:
        ConfigError: no such device, file or function.
    """

    code_keys = frozenset({"module"})

    def __init__(
        self,
        *,
        module: str,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        device: str = "auto",
        threads: Threads | None = None,
        at_once: AtOnce = 1,
    ) -> None:
        self.device = device
        self._device = present(device)
        self.dtype = dtype
        self.threads = threads
        self.at_once = at_once
        self._reference = module
        with _problems_of_module():
            self._function = load_function(module)
        self._shape: Module | None = None  # without weights
        self._slots: WeightSlots | None = None

    @classmethod
    def files(cls, options: Mapping[str, Any]) -> Sequence[Path]:
        """See `Engine.files`."""
        with _problems_of_module():
            return code_files(options["module"])

    def open(self, models: Models) -> None:
        """See `Engine.open`.

        Raises:
            ConfigError: the function fails, or returns something else than a module.
        """
        import torch

        from evomerge.engines._slots import WeightSlots

        use_threads(self.threads)
        module = self._build()
        if self.dtype != "auto":
            module.to(getattr(torch, self.dtype))
        module.to(self._device).eval().requires_grad_(False)
        self._require_fit(models, module)
        self._slots = WeightSlots(module, [slot.name for slot in models.slots], self.at_once)

    def validate(self, plan: Plan) -> None:
        """See `Engine.validate`: the module must have the plan's tensors."""
        if self._shape is None:
            try:
                with torch_device("meta"):
                    self._shape = self._build()
            except ConfigError:
                self._shape = self._build()  # making it may take the values of tensors
        self._require_fit(plan.models, self._shape)

    def _build(self) -> Module:
        """The module that the function makes, checked; random generators stay as they were."""
        from torch.nn import Module
        from torch.nn.parameter import is_lazy

        from evomerge.engines._slots import tensors

        path = ("engine", "module")
        try:
            with kept_generators():
                module = self._function()
        except Exception as error:
            text = f"{self._reference} failed: {type(error).__name__}: {error}"
            raise ConfigError(Problem(path, text)) from error
        if not isinstance(module, Module):
            text = f"{self._reference} must return a torch.nn.Module, got {type(module).__name__}"
            raise ConfigError(Problem(path, text))
        if lazy := [name for name, tensor in tensors(module).items() if is_lazy(tensor)]:
            text = f"{self._reference}: {lazy[0]} has no shape before the first call."
            cure = "Call the module once before you return it."
            raise ConfigError(Problem(path, text, cure))
        for tensor in tensors(module).values():
            tensor.data = tensor.data.contiguous()  # so that parts of it can be overwritten
        return module

    def _require_fit(self, models: Models, module: Module) -> None:
        from evomerge.engines._slots import tensors

        file = Path(self._reference).name
        kind, live = type(module).__name__, tensors(module)
        wanted = {slot.name: slot.shape for slot in models.slots}
        cure = "Build the module that the weights are of."
        require_fit(models, kind, live, wanted, source=file, cure=cure)

    def load(self, plan: Plan) -> None:
        """See `Engine.load`."""
        self.load_at(0, plan)
        self.select_slot(0)

    def load_at(self, slot: int, plan: Plan) -> None:
        """See `Engine.load_at`."""
        fill(self._opened.targets(slot), plan, torch_device(self._device))

    def select_slot(self, slot: int) -> None:
        """See `Engine.select_slot`."""
        self.module.eval()  # a scorer may have left it in training mode
        self._opened.select_slot(slot)

    def for_all_slots(self, function: Callable[[Module], Tensor]) -> Tensor:
        """See `Engine.for_all_slots`."""
        self.module.eval()
        return self._opened.for_all_slots(function)

    @property
    def _opened(self) -> WeightSlots:
        if self._slots is None:
            raise RuntimeError("the engine is not open")
        return self._slots

    @property
    def module(self) -> Module:
        """See `Engine.module`."""
        return self._opened.module

    def identity(self, models: Models) -> Mapping[str, Any]:
        """See `Engine.identity`: dtype, device, and a digest of the user's code."""
        dtype = {} if self.dtype == "auto" else {"dtype": self.dtype}
        # `model_args` as in the runs of earlier versions, which resume by a digest of this
        module = content_digest(self._reference)
        return {"model_args": dtype, "device": self._device, "module": module}

    def close(self) -> None:
        """See `Engine.close`."""
        self._shape = self._slots = None
        release(self._device)


@contextmanager
def _problems_of_module() -> Iterator[None]:
    """Put the key before every problem."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError([p.under("engine", "module") for p in error.details]) from None
