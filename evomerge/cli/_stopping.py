"""Ctrl-C and SIGTERM: the first one ends a command, and others soon after it are ignored."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

SHUTDOWN_GRACE_SECONDS = 20.0  # for workers and engines to end; then a signal insists

_MOMENT_SECONDS = 0.05  # after which a finalizer has ended

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt, and remembers which of them came.

    Attributes:
        number: of the signal that came first; None while none has come.
        message: what to say at the end; empty where it is said already.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.message = "Stopped."
        self._raised = self._heard = 0.0  # monotonic seconds

    def listen(self) -> None:
        """Raise KeyboardInterrupt at either signal, from now on.

        A signal that was ignored from the start stays so, as Ctrl-C in the background of a script.
        """
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._hear)

    def leave(self) -> None:
        """Let either signal end this process at once, from now on."""
        for number in _SIGNALS:
            if signal.getsignal(number) == self._hear:
                signal.signal(number, signal.SIG_DFL)

    def end(self) -> NoReturn:
        """Exit as shells have it, 130 after Ctrl-C and 143 after SIGTERM, whatever comes now."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # it would kill an interpreter that shuts down
        if self.message:
            print(self.message, file=sys.stderr)
        sys.exit(128 + (self.number or signal.SIGINT))

    def raise_if_asked(self) -> None:
        """Raise KeyboardInterrupt once a signal has come, for work that has not noticed.

        Python raises it wherever it happens to be. In a finalizer, or in a library that catches
        everything, it is lost.
        """
        if self.number is not None:
            self._raised = time.monotonic()
            raise KeyboardInterrupt

    def hear_again(self, lost: sys.UnraisableHookArgs) -> None:
        """Raise an interrupt once more that came in a finalizer, which cannot pass it on.

        Without it, as `sys.unraisablehook`, Python prints a traceback and goes on.
        """
        if self.number is None or not isinstance(lost.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(lost)
            return
        self._send_again(self.number)

    def _send_again(self, number: int) -> None:
        self._raised = -SHUTDOWN_GRACE_SECONDS  # long ago
        main = threading.main_thread().ident
        again = threading.Timer(_MOMENT_SECONDS, signal.pthread_kill, (main, number))
        again.daemon = True
        again.start()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is not None and now - self._raised <= SHUTDOWN_GRACE_SECONDS:
            return
        if self.number is None:
            self.number, self._heard = number, now
        if _is_importing(frame) and now - self._heard < SHUTDOWN_GRACE_SECONDS:
            self._send_again(number)
            return
        self._raised = now
        raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being made: C++ that does ends the process at whatever is raised."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


stopping = Stopping()
