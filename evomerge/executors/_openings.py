"""Which places of a crew could not be filled, when to try again, and when to give up."""

from __future__ import annotations

from dataclasses import dataclass, field

from evomerge.errors import EvomergeError

_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 300.0


@dataclass(slots=True)
class StartupRetries:
    """The failures of each place since it was last open.

    A place that waits for room has not failed, but it does not keep up hope either: where all
    others fail, and it has waited long, nobody will evaluate anything.

    Attributes:
        places: how many there are, numbered from 0.
        fatal: failures in a row after which a place gives no hope.
    """

    places: int
    fatal: int
    _failures: dict[int, int] = field(default_factory=dict)
    _waiting: set[int] = field(default_factory=set)
    _last: EvomergeError | None = None

    def failed(self, place: int, error: EvomergeError) -> float:
        """Note that a place could not be opened; seconds until it is worth another attempt."""
        failures = self._failures.get(place, 0) + 1
        self._failures[place] = failures
        self._waiting.discard(place)
        self._last = error
        doublings = min(failures - 1, 30)  # of more, the power is a needlessly large number
        return min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0**doublings)

    def waits(self, place: int) -> None:
        """Note that a place has long found no room in the cluster."""
        self._waiting.add(place)

    def arrived(self, place: int) -> None:
        """Note that it found room, and is about to open."""
        self._waiting.discard(place)

    def opened(self, place: int) -> None:
        """Note that a place is open: what was before no longer counts."""
        self._waiting.discard(place)
        self._failures.pop(place, None)

    @property
    def verdict(self) -> EvomergeError | None:
        """What ends the run: the last failure, once no place gives hope; else None."""
        beyond = {place for place, count in self._failures.items() if count >= self.fatal}
        return self._last if beyond and len(beyond | self._waiting) == self.places else None
