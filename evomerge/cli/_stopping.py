"""Ctrl-C and SIGTERM: the first one ends a command, and others soon after it are ignored."""

from __future__ import annotations

import signal
import time
from types import FrameType

SHUTDOWN_GRACE_SECONDS = 20.0  # for workers and engines to end; then a signal insists

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt, and remembers which of them came.

    Attributes:
        number: of the signal that came first; None while none has come.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._raised = 0.0  # monotonic seconds

    def listen(self) -> None:
        """Raise KeyboardInterrupt at either signal, from now on.

        A signal that was ignored from the start stays so, as Ctrl-C in the background of a script.
        """
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._hear)

    def ignore(self) -> None:
        """Ignore both signals, which would kill an interpreter that is shutting down."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def raise_if_asked(self) -> None:
        """Raise KeyboardInterrupt once a signal has come, for work that has not noticed.

        Python raises it wherever it happens to be. In a finalizer, or in a library that catches
        everything, it is lost.
        """
        if self.number is not None:
            self._raised = time.monotonic()
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None or now - self._raised > SHUTDOWN_GRACE_SECONDS:
            self.number = self.number or number
            self._raised = now
            raise KeyboardInterrupt


stopping = Stopping()
