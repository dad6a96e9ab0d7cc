"""What the tensors of an adapter's file change in its base, and whether they fit.

Names are PEFT's: ``base_model.model.<module>.lora_A.weight`` is (r, in), ``lora_B.weight`` is
(out, r). An embedding's factors are ``lora_embedding_A`` (r, rows) and ``lora_embedding_B``
(width, r), whose product is transposed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from evomerge.errors import listed
from evomerge.recipes.places import pattern, same_place
from evomerge.weights.adapters.config import AdapterConfig
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.files.headers import TensorInfo
from evomerge.weights.layouts.key_layouts import KeyLayout

_PREFIX = "base_model.model."
_PART = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_"
    r"(?P<part>[AB]\.weight|B\.bias|embedding_[AB]|magnitude_vector(\.weight)?)"
)
_HEADS = ("lm_head.", "embed_out.")
_SAVE_AGAIN = "Save the adapter again"
_OTHER_BASE = "Give the base that the adapter was made for"
STEM = "adapter_model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an adapter does to one tensor of the base, by names in the adapter's file.

    Attributes:
        saved: replaces the tensor, before anything is added.
        a, b: the factors of the product that is added, times ``scale``.
        transposed: whether the product is transposed before it is added.
        embedding: whether the factors are those of an embedding.
        magnitude: lengths that the rows of the sum are scaled to.
        bias: is added to a bias, times ``scale``.
    """

    saved: str | None = None
    a: str | None = None
    b: str | None = None
    transposed: bool = False
    embedding: bool = False
    magnitude: str | None = None
    bias: str | None = None
    scale: float = 0.0

    @property
    def keys(self) -> list[str]:
        names = (self.saved, self.a, self.b, self.magnitude, self.bias)
        return [name for name in names if name is not None]

    @property
    def plain(self) -> bool:
        """Whether it only adds a product to a weight."""
        return self.a is not None and len(self.keys) == 2


class Changes:
    """What an adapter's file changes in a base.

    Attributes:
        by_tensor: name of the base's tensor to its change.
        problems: one sentence for each kind of mistake, without the folder's name.
    """

    def __init__(
        self, stored: Mapping[str, TensorInfo], settings: AdapterConfig, base: Checkpoint
    ) -> None:
        self._stored, self._settings, self._base = stored, settings, base
        self._wrong: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.by_tensor: dict[str, Change] = {}
        self._modules: dict[str, str] = {}  # of the adapter, by the tensor of the base
        modules, saved = self._sorted()
        for name, key in saved.items():
            self._replace(name, key)
        for module, parts in modules.items():
            self._add(module, parts)
        self._require_saved(saved)
        self._require_all_blocks()
        self._refuse_tied()
        if not stored:
            self._fault("its file is empty", "Save the adapter again", STEM)

    @property
    def problems(self) -> list[str]:
        return [f"{what}: {listed(names)}. {cure}." for (what, cure), names in self._wrong.items()]

    def _fault(self, what: str, cure: str, name: str) -> None:
        self._wrong[what, cure].append(name)

    def _sorted(self) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
        """The file's names: by module and part, and by tensor where it is saved in full."""
        modules: dict[str, dict[str, str]] = defaultdict(dict)
        saved: dict[str, str] = {}
        for key in self._stored:
            match = _PART.fullmatch(key)
            if match is not None:
                modules[match["module"]][match["part"].removesuffix(".weight")] = key
            elif key.startswith(_PREFIX) and "lora_" not in key:
                # a wrapped layer's own tensors lie one deeper
                saved[key.removeprefix(_PREFIX).replace(".base_layer.", ".")] = key
            else:
                self._fault("tensors that PEFT does not name so", "Save the adapter with PEFT", key)
        return modules, saved

    def _replace(self, name: str, key: str) -> None:
        own, base = self._find(name), self._base
        if own is None and base.head is None and name.startswith(_HEADS) and base.embedding:
            # a tied base stores no head, but an adapter may bring one
            same = base.tensors[base.embedding].shape == self._stored[key].shape
            own = name if same else None
        if own is None:
            self._fault("tensors that its base does not have", _OTHER_BASE, name)
        else:
            self.by_tensor[own] = Change(saved=key)

    def _add(self, module: str, parts: Mapping[str, str]) -> None:
        embedding = "embedding_A" in parts or "embedding_B" in parts
        a, b = (parts.get(f"embedding_{part}" if embedding else part) for part in "AB")
        name = self._find(f"{module}.weight")
        if name is not None:
            self._modules[name] = module
        if a is None or b is None:
            self._fault("layers with one of lora_A and lora_B only", _SAVE_AGAIN, module)
        elif name is None:
            self._fault("layers that its base does not have", _OTHER_BASE, module)
        elif (turned := self._turned(module, name, a, b, embedding=embedding)) is not None:
            scale = self._settings.scale_of(module)
            saved = self.by_tensor.get(name, Change()).saved
            lengths = parts.get("magnitude_vector")
            change = Change(
                saved=saved,
                a=a,
                b=b,
                transposed=turned,
                embedding=embedding,
                magnitude=lengths,
                scale=scale,
            )
            self.by_tensor[name] = change
            self._check_magnitude(module, change)
            if "B.bias" in parts:
                self._add_bias(module, parts["B.bias"], scale)

    def _turned(self, module: str, name: str, a: str, b: str, *, embedding: bool) -> bool | None:
        """Whether the product B·A is transposed before it is added; None where it cannot be."""
        shape_a, shape_b = self._stored[a].shape, self._stored[b].shape
        saved = self.by_tensor.get(name, Change()).saved
        shape = (self._stored[saved] if saved else self._base.tensors[name]).shape
        if len(shape_a) != 2 or len(shape_b) != 2 or shape_a[0] != shape_b[1]:
            what = "factors that are not (r, in) and (out, r)"
            self._fault(what, _SAVE_AGAIN, f"{module} has {shape_a} and {shape_b}")
            return None
        rank, product = self._settings.rank_of(module), (shape_b[0], shape_a[1])
        if shape_a[0] != rank:
            what = "ranks that differ from those of adapter_config.json"
            self._fault(what, _SAVE_AGAIN, f"{module} has {shape_a[0]}, expected {rank}")
            return None
        # a square weight does not tell how it is stored
        turned = embedding or (self._settings.transposed if shape == shape[::-1] else None)
        if turned is None:
            turned = shape == product[::-1]
        if shape != (product[::-1] if turned else product):
            shapes = f"{module} is {shape} in the base, {product} in the adapter"
            self._fault("layers of another shape", _OTHER_BASE, shapes)
            return None
        return turned

    def _check_magnitude(self, module: str, change: Change) -> None:
        """Note missing magnitudes of DoRA, and those that are not one for each row."""
        key = change.magnitude
        if self._settings.dora != (key is not None):
            self._fault("layers that contradict use_dora", _SAVE_AGAIN, module)
        elif key is None or change.b is None:
            return
        elif change.transposed:
            self._fault("DoRA on what is no linear layer", "Merge it with PEFT first", module)
        elif self._stored[key].shape not in ((rows := self._stored[change.b].shape[0],), (rows, 1)):
            self._fault("magnitudes that are not one for each row", _SAVE_AGAIN, module)

    def _add_bias(self, module: str, key: str, scale: float) -> None:
        own = self._find(f"{module}.bias")
        if own is None or self._base.tensors[own].shape != self._stored[key].shape:
            self._fault("biases that its base does not have", _OTHER_BASE, module)
        else:
            saved = self.by_tensor.get(own, Change()).saved
            self.by_tensor[own] = Change(saved=saved, bias=key, scale=scale)

    def _require_saved(self, saved: Mapping[str, str]) -> None:
        """Note modules that the config says are saved in full but are not there."""
        for module in self._settings.saved_modules:
            expected = any(f".{module}." in f".{name}" for name in self._base.tensors)
            if expected and not any(f".{module}." in f".{name}" for name in saved):
                self._fault("modules_to_save that its file lacks", _SAVE_AGAIN, module)

    def _require_all_blocks(self) -> None:
        """Note layers that are changed in other blocks, and by the config in these too."""
        like = {pattern(name): module for name, module in self._modules.items()}
        known = self.by_tensor.keys() | self._modules.keys()
        for name in (name for name in self._base.tensors if name not in known):
            if (module := like.get(pattern(name))) is None:
                continue
            own = same_place(module, name)
            # PEFT changes no layer that is not built, as those for multi-token prediction
            if self._settings.targets(own) and name not in self._base.unread:
                what = "layers that it changes in other blocks and lacks in these"
                cure = "Copy it again, or list them in exclude_modules of adapter_config.json"
                self._fault(what, cure, own)

    def _refuse_tied(self) -> None:
        """Note a changed embedding that is also the head."""
        # PEFT computes with the changed embedding and the old head, but merges into both
        base, embedding = self._base, self._base.embedding
        if embedding not in self.by_tensor or not base.tied:
            return
        if not any(name == base.head or name not in base.tensors for name in self.by_tensor):
            what = "a change of the embedding, which is also the head in its base"
            self._fault(what, "Merge it with PEFT, which decides what that means", embedding)

    def _find(self, name: str) -> str | None:
        """The base's tensor of that name, with another prefix, or that is loaded by that name."""
        tensors = self._base.tensors
        if name in tensors:
            return name
        near = [own for own in tensors if own.endswith(f".{name}") or name.endswith(f".{own}")]
        return near[0] if len(near) == 1 else self._in_files.get(name)

    @cached_property
    def _in_files(self) -> Mapping[str, str]:
        """The base's tensors by their names in memory, where those are not the files'."""
        modules, saved = self._sorted()
        names = [f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")]
        return KeyLayout(self._base).own_names([*names, *saved])
