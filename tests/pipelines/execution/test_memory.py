"""Memory of a worker: what one image frees is what the next one gets."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

LOOP = """
import resource, sys
import cv2
import numpy as np
from lucidflux_data.measures.blur_and_flat import measure_bytes
from pipelines.execution.worker import prepare_process

if sys.argv[1] == "prepared":
    prepare_process()
small = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
photos = [
    cv2.imencode(".jpg", cv2.resize(small, (width, 2000), interpolation=cv2.INTER_CUBIC))[1].tobytes()
    for width in (1500, 2000, 1800)
]
for photo in photos:
    measure_bytes(photo)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for photo in photos * 2:
    measure_bytes(photo)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(how: str) -> int:
    result = subprocess.run([sys.executable, "-c", LOOP, how], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library is not glibc")
def test_a_worker_asks_the_system_for_no_memory_that_it_had() -> None:
    assert count_faults("prepared") < 500 < 5000 < count_faults("plain")
