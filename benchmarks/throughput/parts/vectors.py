"""What semantic duplicates of a set cost, on generated vectors: `vectors`."""

from __future__ import annotations

import resource
import time
from typing import Annotated

import numpy as np
import typer

from benchmarks.throughput.timing import Facts, OutFile, print_json
from lucidflux_data.vectors.duplicates import group_semantic

app = typer.Typer()
BLOCK = 1 << 16


@app.command("vectors")
def vectors_command(
    count: Annotated[int, typer.Option(help="Vectors.")] = 2_950_000,
    size: Annotated[int, typer.Option(help="Numbers in each.")] = 512,
    cosine: Annotated[float, typer.Option(help="Of duplicates, at least.")] = 0.95,
    out: OutFile = None,
) -> None:
    """Seconds and memory of `group_semantic`, and which of the planted duplicates it finds. The vectors lie about 1,000
    directions, as those of photos do about their subjects; one in twenty is a near copy of the one before it."""
    vectors, planted = generate(count, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    groups = group_semantic(vectors, cosine)
    result: Facts = {
        "vectors": count,
        "size": size,
        "wall_s": round(time.perf_counter() - start, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "vectors_gb": round(vectors.nbytes / 1e9, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "peak_before_gb": round(before / 1e6, 2),
        "planted": len(planted),
        "found": round(float((groups[planted] == groups[planted - 1]).mean()), 4),
        "linked": int((groups != np.arange(count)).sum()),
    }
    print_json(result, out)


def generate(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(float16 vectors, int64 rows that are near copies of the row before them)."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1000, size)).astype(np.float32)
    vectors = np.empty((count, size), np.float16)
    for start in range(0, count, BLOCK):
        rows = min(BLOCK, count - start)
        block = centres[rng.integers(0, 1000, rows)] + rng.standard_normal((rows, size), np.float32)
        near = np.arange(19, rows, 20)
        block[near] = block[near - 1] + 0.2 * rng.standard_normal((len(near), size), np.float32)
        vectors[start : start + rows] = block
    planted = np.concatenate([start + np.arange(19, min(BLOCK, count - start), 20) for start in range(0, count, BLOCK)])
    return vectors, planted
