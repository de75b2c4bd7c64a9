"""The limit on time ends a process that no Python runs in any more, and leaves nothing behind otherwise."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from lucidflux_data.alarm import hard_limit


def run(code: str) -> int:
    return subprocess.run([sys.executable, "-c", code], timeout=60).returncode


@pytest.mark.parametrize("hang", ["import time; time.sleep(30)", "sum(range(10**11))"])
def test_a_hang_ends_the_process(hang: str) -> None:
    assert run(f"from lucidflux_data.alarm import hard_limit\nwith hard_limit(0.3): {hang}") == -signal.SIGALRM


def test_a_signal_that_the_parent_ignored_and_blocked_ends_it_all_the_same() -> None:
    code = """
import signal
signal.signal(signal.SIGALRM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
from lucidflux_data.alarm import hard_limit, let_alarm_end
let_alarm_end()
with hard_limit(0.3): sum(range(10**11))
"""
    assert run(code) == -signal.SIGALRM


def test_what_ends_in_time_goes_on_and_an_outer_limit_stays() -> None:
    code = """
import time
from lucidflux_data.alarm import hard_limit
for _ in range(100):
    with hard_limit(0.5): pass
time.sleep(0.8)
with hard_limit(0.4):
    with hard_limit(30): pass
    time.sleep(30)
"""
    start = time.monotonic()
    assert run(code) == -signal.SIGALRM
    assert time.monotonic() - start < 20


def test_an_error_takes_the_limit_away() -> None:
    before = signal.getitimer(signal.ITIMER_REAL)
    with pytest.raises(KeyError), hard_limit(100):
        raise KeyError
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (before[0] > 0)
