"""The published methods once more, in jax and on weights: a peer, for more seeds than three.

It imports nothing of evomerge, and draws with jax's generator from the published seeds, of which
the first three lead to the published figures of MAP-Elites and of no crossover. LERP, which is not
in the published code, is here, too. Nothing else needs jax:

    pip install jax
    python experiments/m2n2_digits/published.py --only MAP --seeds 20

Curves are recorded as by `run.py`, in a folder of their own; what is recorded is not run again.

Source: Competition and Attraction Improve Model Fusion, GECCO 2025, arXiv:2508.16204, and the
behaviour of its code: an archive of slots, where of equals the first is overwritten.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from methods import METHODS, Method
from sklearn.datasets import load_digits

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_threefry_partitionable", False)  # the generator of jax 0.4

Array = Any  # jax.Array; whoever checks types may have no jax

FIRST_SEED, EVERY, SIGMA, CELLS = 42, 50, 0.01, 10
TRAIN, PIXELS, HIDDEN, CLASSES = 1437, 64, 256, 10
SIZE = (PIXELS + 1) * HIDDEN + (HIDDEN + 1) * CLASSES
IMAGES, LABELS = (jnp.asarray(part) for part in load_digits(return_X_y=True))
ODD = LABELS[:TRAIN] % 2 == 1


class Archive(NamedTuple):
    """P slots of individuals that solve E examples; in an empty one all is zero."""

    weights: Array  # (P, 19 210)
    solved: Array  # (P, E) bool


def main() -> None:
    """Parse, run, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("runs/m2n2_digits/published"))
    parser.add_argument("--only", help="a part of the methods' names", default="")
    given = parser.parse_args()
    bred = [method for method in METHODS if method.optimizer in {"m2n2", "map_elites"}]
    chosen = [method for method in bred if given.only in method.name]
    if not chosen:
        parser.error(f"--only {given.only}: no such method. Try: {', '.join(m.name for m in bred)}")
    if given.evaluations % EVERY or given.evaluations < EVERY:
        parser.error(f"--evaluations {given.evaluations}: expected a multiple of {EVERY}.")
    given.out.mkdir(parents=True, exist_ok=True)
    for method in chosen:
        for seed in range(FIRST_SEED, FIRST_SEED + given.seeds):
            path = given.out / f"{method.slug}_{seed}.json"
            if path.exists():
                continue
            curve = list(search(method, seed, given.evaluations))
            record = {"method": method.name, "seed": seed, "curve": curve}
            path.write_text(json.dumps(record) + "\n", encoding="utf-8")
            count, accuracy = curve[-1]
            print(f"{method.name}, seed {seed}: {100 * accuracy:.1f} % at {count}", file=sys.stderr)


def search(method: Method, seed: int, budget: int) -> Iterator[tuple[int, float]]:
    """Evaluations, and the test accuracy of the best in training by then."""
    key, one, two = random.split(random.PRNGKey(seed), 3)
    seeds = [SIGMA * random.normal(half, (SIZE,)) for half in (one, two)]
    if method.pretrained:
        key, seeds = random.PRNGKey(seed), pretrained()
    slots = CELLS**2 if method.optimizer == "map_elites" else 20
    archive = Archive(jnp.zeros((slots, SIZE)), jnp.zeros((slots, TRAIN), bool))
    enter, advance = steps_of(method.name)
    for weights in seeds:
        archive = enter(archive, weights)
    for count in range(EVERY, budget + 1, EVERY):
        archive, key = advance(archive, key)
        best = archive.weights[jnp.argmax(archive.solved.sum(1))]
        yield count, float(solves(best, slice(TRAIN, None)).mean())


@cache
def steps_of(name: str) -> tuple[Callable[..., Archive], Callable[..., tuple[Archive, Array]]]:
    """How an individual enters the archive, and how many are bred, compiled once."""
    (method,) = (method for method in METHODS if method.name == name)
    enter = partial(into_niche, alpha=alpha_of(method))
    if method.optimizer == "map_elites":
        enter = partial(into_cell)
    return enter, jax.jit(partial(breed_many, partial(breed, method), enter))


def alpha_of(method: Method) -> float:
    """How strongly members compete."""
    return 1.0 if method.options.get("competition", True) else 0.0


def breed_many(
    child_of: Callable[[Archive, Array], Array],
    enter: Callable[[Archive, Array], Archive],
    archive: Archive,
    key: Array,
) -> tuple[Archive, Array]:
    """The archive after `EVERY` children, and the key of the next."""

    def step(state: tuple[Archive, Array], _: None) -> tuple[tuple[Archive, Array], None]:
        archive, key = state
        *keys, key = random.split(key, 4)
        return (enter(archive, child_of(archive, keys)), key), None

    (archive, key), _ = jax.lax.scan(step, (archive, key), None, length=EVERY)
    return archive, key


def breed(method: Method, archive: Archive, keys: Array) -> Array:
    """(19 210,) a child."""
    choosing, crossing, mutating = keys
    if method.optimizer == "map_elites":
        first, second = two_elites(archive, choosing)
    else:
        attraction = method.options.get("attraction", True)
        first, second = two_members(archive, choosing, alpha_of(method), attraction)
    x, y = archive.weights[first], archive.weights[second]
    child = x
    if method.options.get("crossover", True):
        ratio = ratios(crossing, split=method.options.get("split_point", True))
        child = line(x, y, ratio) if method.interpolation == "lerp" else arc(x, y, ratio)
    noise = 0.0 if method.pretrained else SIGMA * random.normal(mutating, (SIZE,))
    return child + noise


def two_members(archive: Archive, key: Array, alpha: float, attraction: bool) -> tuple[Array, ...]:
    """The slots of two parents, the second by attraction or, like the first, by fitness.

    Where nobody attracts, chances are NaN, of which jax draws the same slot always, as published.
    """
    one, two = random.split(key)
    taken = archive.solved.sum(0)
    shares = archive.solved / jnp.where(taken, taken, 1) ** alpha
    fitness = shares.sum(1)
    slots = len(fitness)
    if not attraction:
        second, first = random.choice(one, slots, (2,), p=fitness / fitness.sum())
        return first, second
    first = random.choice(one, slots, (1,), p=fitness / fitness.sum())[0]
    gain = jnp.maximum(0, shares - shares[first]).sum(1)
    return first, random.choice(two, slots, (1,), p=gain / gain.sum())[0]


def two_elites(archive: Archive, key: Array) -> Array:
    """(2,) cells, by accuracy; twice the same only while all accuracies sum to less than two.

    Among all cells, of which empty ones have no chance: not the draws of the published code, which
    numbers the taken ones.
    """
    accuracy = archive.solved.mean(1)
    chances = accuracy / accuracy.sum()
    twice = random.choice(key, CELLS**2, (2,), p=chances)
    _, once = jax.lax.top_k(random.gumbel(key, (CELLS**2,)) + jnp.log(chances), 2)
    return jnp.where(accuracy.sum() < 2, twice, once)


def into_niche(archive: Archive, weights: Array, *, alpha: float) -> Archive:
    """Into the slot of the worst of P + 1, the first of equals, unless that is the newcomer."""
    solved = solves(weights, slice(TRAIN))
    all_solved = jnp.concatenate([archive.solved, solved[None]])
    taken = all_solved.sum(0) ** alpha
    slot = jnp.argmin((all_solved / jnp.where(taken, taken, 1)).sum(1))
    return Archive(
        archive.weights.at[slot].set(weights, mode="drop"),
        archive.solved.at[slot].set(solved, mode="drop"),
    )


def into_cell(archive: Archive, weights: Array) -> Archive:
    """Into the cell of the accuracies on odd and even digits, if it is better than who is there."""
    solved = solves(weights, slice(TRAIN))
    odd, even = (
        jnp.minimum((CELLS * (solved & kind).sum() / kind.sum()).astype(int), CELLS - 1)
        for kind in (ODD, ~ODD)
    )
    cell = odd * CELLS + even
    worse = archive.solved[cell].sum() >= solved.sum()
    slot = jnp.where(worse, CELLS**2, cell)
    return Archive(
        archive.weights.at[slot].set(weights, mode="drop"),
        archive.solved.at[slot].set(solved, mode="drop"),
    )


def ratios(key: Array, *, split: bool) -> Array:
    """The second parent's part in every element."""
    if not split:
        return random.uniform(key)
    where, how = random.split(key)
    point, ratio = random.randint(where, (), 0, SIZE), random.uniform(how)
    return jnp.where(jnp.arange(SIZE) < point, ratio, 1 - ratio)


def line(x: Array, y: Array, t: Array) -> Array:
    """Linear interpolation."""
    return (1 - t) * x + t * y


def arc(x: Array, y: Array, t: Array) -> Array:
    """Spherical interpolation, by the angle between the whole models."""
    cosine = jnp.dot(x / jnp.linalg.norm(x), y / jnp.linalg.norm(y))
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    sine = jnp.sin(angle)
    curved = jnp.sin((1 - t) * angle) / sine * x + jnp.sin(t * angle) / sine * y
    return jnp.where(sine > 1e-6, curved, line(x, y, t))


def outputs(weights: Array, images: Array) -> Array:
    """(E, 10)."""
    edge, last = PIXELS * HIDDEN, SIZE - CLASSES
    hidden = images @ weights[:edge].reshape(PIXELS, HIDDEN) + weights[edge : edge + HIDDEN]
    out = weights[edge + HIDDEN : last].reshape(HIDDEN, CLASSES)
    found: Array = jnp.maximum(hidden, 0) @ out + weights[last:]
    return found


def solves(weights: Array, part: slice) -> Array:
    """(E,) which images of a part are classified correctly."""
    return outputs(weights, IMAGES[part]).argmax(1) == LABELS[part]


@cache
def pretrained() -> list[Array]:
    """Two networks after ten steps of Adam, one on digits 0-4 and one on 5-9."""
    return [
        trained(SIGMA * random.normal(key, (SIZE,)), known)
        for key, known in zip(
            random.split(random.PRNGKey(42)), (LABELS < 5, LABELS >= 5), strict=True
        )
    ]


def trained(weights: Array, known: Array, steps: int = 10, rate: float = 0.003) -> Array:
    """By Adam on the training images of the known digits (Kingma & Ba 2015, arXiv:1412.6980)."""
    known = known[:TRAIN]
    images, labels = IMAGES[:TRAIN][known], LABELS[:TRAIN][known]

    def loss(weights: Array) -> Array:
        chances = jax.nn.log_softmax(outputs(weights, images))
        return -jnp.take_along_axis(chances, labels[:, None], 1).mean()

    mean, square = jnp.zeros(SIZE), jnp.zeros(SIZE)
    for step in range(1, steps + 1):
        slope = jax.grad(loss)(weights)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        corrected = mean / (1 - 0.9**step), square / (1 - 0.999**step)
        weights = weights - rate * corrected[0] / (jnp.sqrt(corrected[1]) + 1e-8)
    return weights


if __name__ == "__main__":
    main()
