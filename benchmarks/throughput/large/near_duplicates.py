"""Near-duplicates among millions of hashes: what we sort, faiss's multi-hash index, a plain compiled scan."""

from __future__ import annotations

import importlib.util
import multiprocessing
import resource
import time
from multiprocessing.queues import Queue
from typing import Annotated

import numpy as np
import typer

from benchmarks.throughput.timing import Facts, OutFile, tell
from lucidflux_data.jit import compiled
from lucidflux_data.measures.near_duplicates import _count_bits, _roots, _union, dihedral, group_near

app = typer.Typer()
# A pair within 4 bits differs in at most one bit of one of three blocks: exact, and blocks of 21 bits are nearly a hash
# each at 2.95M. Five blocks of 12 bits without a flip took 1.8 times as long at 100,000, and grow with the square.
BLOCKS_OF_FAISS, BITS_OF_FAISS, FLIPS_OF_FAISS, RADIUS = 3, 21, 1, 4
QUERIES = 200_000  # that faiss is asked at a time: its answer to all of them would not fit into memory


@app.command("near-duplicates")
def near_duplicates_command(
    hashes: int = 2_950_000,
    scanned: Annotated[int, typer.Option(min=1, help="Hashes of the plain scan, which is quadratic.")] = 20_000,
    indexed: Annotated[
        int, typer.Option(min=1, help="Hashes of faiss's index, where faiss-cpu is installed.")
    ] = 100_000,
    out: OutFile = None,
) -> None:
    """Random hashes, one in ten a flipped or turned copy within the radius; each contender in a process of its own.

    Groups are compared wherever two have made them. Ratios are of processor time.
    """
    result: Facts = {"hashes": hashes, "radius": RADIUS}
    index = ["faiss"] if importlib.util.find_spec("faiss") is not None else []
    for count, others in ((scanned, [*index, "scan"]), (indexed, index), (hashes, [])):
        ours, groups = _apart("ours", count)
        result[f"ours_{count}"] = ours
        for name in others:
            theirs, their_groups = _apart(name, count)
            result[f"{name}_{count}"] = theirs | {
                "same_groups": np.array_equal(groups, their_groups),
                f"{name} / ours": round(theirs["core_seconds"] / ours["core_seconds"], 1),
            }
    tell(result, out)


def plant(n: int) -> np.ndarray:
    """uint64 (n): random, the last tenth copies of the first in some flip or turn, up to RADIUS bits away."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, n, dtype=np.uint64)
    copies = n // 10
    planted = dihedral(hashes[:copies])[rng.integers(0, 8, copies), np.arange(copies)]
    for _ in range(RADIUS):
        planted ^= np.uint64(1) << rng.integers(0, 64, copies, dtype=np.uint64)
    hashes[n - copies :] = planted
    return hashes


def _apart(name: str, count: int) -> tuple[dict[str, float], np.ndarray]:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measure, args=(name, count, queue))
    process.start()
    figures, groups = queue.get()
    process.join()
    return figures, np.frombuffer(groups, np.int64)


def _measure(name: str, count: int, queue: Queue[tuple[dict[str, float], bytes]]) -> None:
    hashes, group = plant(count), CONTENDERS[name]
    group(hashes[:1000], RADIUS)  # compiled before the clock starts
    start, used = time.perf_counter(), time.process_time()
    groups = group(hashes, RADIUS)
    figures: dict[str, float] = {
        "seconds": round(time.perf_counter() - start, 2),
        "core_seconds": round(time.process_time() - used, 2),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "linked": int(np.sum(groups != np.arange(count))),
    }
    queue.put((figures, groups.astype(np.int64).tobytes()))


def _by_faiss(hashes: np.ndarray, radius: int) -> np.ndarray:
    """Every flip and turn of every hash is asked for; the index's radius is that of what lies nearer."""
    import faiss

    index = faiss.IndexBinaryMultiHash(64, BLOCKS_OF_FAISS, BITS_OF_FAISS)
    index.nflip = FLIPS_OF_FAISS
    index.add(hashes.view(np.uint8).reshape(-1, 8))
    parents = np.arange(len(hashes))
    for start in range(0, len(hashes), QUERIES):
        for variant in dihedral(hashes[start : start + QUERIES]):
            limits, _, near = index.range_search(
                np.ascontiguousarray(variant).view(np.uint8).reshape(-1, 8), radius + 1
            )
            _join(parents, start, limits.astype(np.int64), near)
    return _roots(parents)


def _by_scan(hashes: np.ndarray, radius: int) -> np.ndarray:
    parents = np.arange(len(hashes))
    _scan(dihedral(hashes), hashes, radius, parents)
    return _roots(parents)


@compiled
def _join(parents: np.ndarray, start: int, limits: np.ndarray, near: np.ndarray) -> None:
    for query in range(len(limits) - 1):
        for position in range(limits[query], limits[query + 1]):
            _union(parents, start + query, near[position])


@compiled
def _scan(variants: np.ndarray, hashes: np.ndarray, radius: int, parents: np.ndarray) -> None:
    """All pairs, in all flips and turns."""
    for variant in range(8):
        for i in range(len(hashes)):
            for j in range(i + 1, len(hashes)):
                if _count_bits(variants[variant, i] ^ hashes[j]) <= radius:
                    _union(parents, i, j)


CONTENDERS = {"ours": group_near, "faiss": _by_faiss, "scan": _by_scan}


if __name__ == "__main__":
    app()
