"""A limit of time that holds whatever hangs: the kernel's alarm, which ends the process."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def hard_limit(seconds: float) -> Iterator[None]:
    """Ends this process by SIGALRM when the block takes longer, whatever it hangs in: the kernel keeps the time.

    Two system calls: an image costs microseconds more. A limit around it starts again with what it had left.
    """
    around = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *around)


def let_alarm_end() -> None:
    """SIGALRM ends this process, whatever was inherited. For the main thread of a process that is ours."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
