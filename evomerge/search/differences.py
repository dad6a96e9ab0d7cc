"""How a replayed search differs from the recorded one."""

from __future__ import annotations

from evomerge.types import Candidate


def difference(expected: Candidate, proposed: Candidate | None) -> str:
    """How a candidate proposed while replaying differs from the recorded one, as a sentence."""
    text = f"candidate {expected.number} is not what the run recorded"
    if proposed is None:
        return f"{text}: nothing was proposed. Resume with the version that began the run."
    for name, value in expected.genome.genes.items():
        if proposed.genome.genes.get(name) != value:
            return (
                f"{text}: gene {name} is {proposed.genome.genes.get(name)!r}, recorded {value!r}. "
                "Resume with the versions that began the run; `evomerge show --json` lists them."
            )
    return f"{text}: its kind, parents or recipe differ. Resume with the version that began the run"
