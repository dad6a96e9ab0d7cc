"""Seeds of sampled answers: by example and repeat, whoever is asked, and whatever else is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


def repeats(instance: Instance, task: str, doc_id: int, seed: int) -> Iterator[Instance]:
    """The request as often as it is asked, each time with a seed of its own if it samples.

    Seeds are in ``gen_kwargs``, as vLLM wants them. Candidates whose chances are alike then give
    like answers, and a score differs by what a candidate is, not by its luck.

    Args:
        instance: stays as it is.
        task: lm-eval's name for the task.
        doc_id: the document's number in its data set.
        seed: of all; ``seed`` in the request's own ``gen_kwargs`` comes before it.
    """
    count = instance.repeats or 1
    if instance.request_type != "generate_until" or not _samples(instance.args[1]):
        yield from [instance] * count
        return
    prompt, options, *others = instance.args
    for repeat in range(count):
        one = copy(instance)
        own = _seed(options.get("seed", seed), task, doc_id, instance.idx, repeat)
        one.arguments = (prompt, {**options, "seed": own}, *others)
        yield one


def _samples(options: Mapping[str, Any]) -> bool:
    """Whether answers are drawn, as lm-eval reads its ``gen_kwargs``."""
    wanted = options.get("do_sample")
    return bool(float(options.get("temperature", 0.0)) > 0 if wanted is None else wanted)


def _seed(*key: Any) -> int:
    """A number in [0, 2⁶³), as torch and vLLM take it, another one for every key."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
