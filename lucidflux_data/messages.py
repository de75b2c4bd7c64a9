"""What our own processes tell each other, over pipes that we opened or through Ray: the one place that pickles.

Reading a pickle can run code. Nothing that was ever in a file, and nothing that came from outside, is read here.
"""

from __future__ import annotations

import pickle
from typing import IO, Any

UnpackError = pickle.UnpicklingError


def pack(message: Any) -> bytes:
    return pickle.dumps(message)


def unpack(data: bytes) -> Any:
    """A message of one of our own processes."""
    return pickle.loads(data)


def send(message: Any, pipe: IO[bytes]) -> None:
    pickle.dump(message, pipe, protocol=5)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """The next message of a child or parent of this process. EOFError where it is gone, UnpackError for half of one."""
    return pickle.load(pipe)
