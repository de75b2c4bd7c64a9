"""The terminal of a command: Ctrl-C is answered at once, a stream that takes nothing ends no job, and an option that is
mistyped is answered with the nearest."""

from __future__ import annotations

import contextlib
import difflib
import io
import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from typer.core import TyperGroup

from lucidflux_data.errors import Interrupted

GRACE_S = 20.0  # for an orderly stop after the first Ctrl-C: shards are discarded, a private cluster is shut down
ANSWER = "interrupted: repeat the command to resume"
INTERRUPTED = threading.Event()  # set once Ctrl-C was answered
_ANSWERS = itertools.count()


class Output(io.FileIO):
    """Standard output that says why it takes nothing more: Interrupted. A reader that left (EPIPE) is left to typer."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains of the rest as it ends
            raise Interrupted(f"standard output cannot be written to: {os.strerror(error.errno or 5)}") from None


class Unfailing(io.FileIO):
    """Standard error whose writes never raise: what cannot be said (a full disk, a closed pipe) stops nothing."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            super().write(data)
        return len(data)


def guard_streams() -> None:
    """Opens standard streams that were closed, on nothing: a file opened later would get their number. Standard output
    writes through `Output`, standard error through `Unfailing`."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            while os.open(os.devnull, os.O_RDWR) < number:  # takes the lowest number that is free
                pass
    sys.stdout = _text(Output(1, "w", closefd=False))
    sys.stderr = _text(Unfailing(2, "w", closefd=False))


def _text(raw: io.FileIO) -> io.TextIOWrapper:
    """As Python opens its standard streams: lines go out at once on a terminal, and always of standard error."""
    lines = raw.isatty() or raw.fileno() == 2
    return io.TextIOWrapper(io.BufferedWriter(raw), errors="backslashreplace", line_buffering=lines)


def catch_interrupts() -> None:
    """The first Ctrl-C says so at once and unwinds the command; a second one, or `GRACE_S` later, ends the process.

    Nothing is lost either way: files are published whole. Workers leave when their driver is gone. A thread answers,
    since the main one may be inside a library (Ray as it starts) that lets no Python run for seconds.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return  # a shell's background job is deaf to Ctrl-C
    heard, told = socket.socketpair()
    told.setblocking(False)  # the handler of the system must not wait
    stops = itertools.count()

    def interrupt(number: int, frame: object) -> None:
        answer()  # the thread may not have had its turn
        if next(stops) == 0:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.set_wakeup_fd(told.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_hear, args=(heard,), daemon=True).start()


def _hear(heard: socket.socket) -> None:
    """Answers the first SIGINT of the numbers of signals that come by `heard`, and ends the process at the second."""
    count = 0
    while True:
        count += heard.recv(1024).count(signal.SIGINT)
        if count:
            answer()
        if count > 1:
            os._exit(Interrupted.exit_code)


def answer() -> None:
    """Says once that the command was interrupted, and sets how long it may take to unwind."""
    if next(_ANSWERS) > 0:
        return
    INTERRUPTED.set()
    with contextlib.suppress(OSError):  # standard error may be closed or full
        os.write(2, f"{ANSWER}\n".encode())
    timer = threading.Timer(GRACE_S, os._exit, (Interrupted.exit_code,))
    timer.daemon = True
    timer.start()


def run_guarded(command: Callable[[], None]) -> None:
    """Runs a command with streams and Ctrl-C as above; output that could not be written is Interrupted.

    A caller in this process who has put streams of its own in their place keeps them, and its answer to Ctrl-C.
    """
    if sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__:
        command()
        return
    guard_streams()
    catch_interrupts()
    try:
        command()
    finally:
        if INTERRUPTED.is_set():  # what comes while the interpreter ends would kill it by the signal
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if sys.stdout is not None:
            sys.stdout.flush()


HELP = {"help_option_names": ["-h", "--help"]}  # context settings, which commands inherit


class SpellingGroup(TyperGroup):
    """The top of a command line: an option that nobody knows, of whichever command, is answered with the nearest."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except Exception as error:
            _suggest_option(error)
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            _suggest_option(error)
            raise


def _suggest_option(error: Any) -> None:
    """Changes the message of click's NoSuchOption, whose class stands in another module from version to version."""
    if type(error).__name__ != "NoSuchOption" or error.ctx is None:
        return
    known = [name for parameter in error.ctx.command.params for name in (*parameter.opts, *parameter.secondary_opts)]
    options = [*(name for name in known if name.startswith("-")), "--help"]
    near = difflib.get_close_matches(error.option_name, options, n=1, cutoff=0.6)
    error.possibilities = None
    if near:
        error.message = f"No such option: {error.option_name}. Did you mean {near[0]}?"
