"""When a signal stops a run: at once while it prepares or waits for data, behind the step while it works.

A step that began is finished and saved; a picture that decodes for two minutes, or a store that does not answer, is
not waited for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class StopAsked(BaseException):
    """Raised by `ask` in the main thread; no handler of Exception takes it for a damaged picture."""


class Stopping:
    """Whether this process was asked to stop, and whether that waits."""

    def __init__(self) -> None:
        self._asked = False
        self._waits = False

    def is_asked(self) -> bool:
        return self._asked

    def ask(self) -> None:
        """Raises StopAsked where nothing is lost by it."""
        self._asked = True
        if not self._waits:
            raise StopAsked

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """What is asked for in the block waits until somebody looks (`is_asked`)."""
        with self._set(True):
            yield

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside `working`: StopAsked at once."""
        with self._set(False):
            yield

    @contextlib.contextmanager
    def _set(self, waits: bool) -> Iterator[None]:
        before, self._waits = self._waits, waits
        try:
            yield
        finally:
            self._waits = before
