"""k-means by faiss, on one thread and from a seed: the same clusters on any number of cores."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from lucidflux_data.errors import ConfigError

SEED = 0
ITERATIONS = 10
POINTS_A_CENTRE = 64  # of the sample that centres are made of
ROWS = 1 << 16  # that are float32 at a time


def find_clusters(vectors: np.ndarray, count: int) -> np.ndarray:
    """int64 (n): the cluster of each row of float16 (n, d), 0..count-1, by cosine. With one cluster, or fewer rows than
    clusters, nothing is computed. ConfigError where faiss is not installed."""
    if count <= 1 or len(vectors) == 0:
        return np.zeros(len(vectors), np.int64)
    if len(vectors) <= count:
        return np.arange(len(vectors))
    try:
        import faiss
    except ImportError:
        raise ConfigError("clusters need faiss: pip install 'lucidflux[semantic]'") from None
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(1)
        with threadpool_limits(1):
            return _cluster(faiss, vectors, count)
    finally:
        faiss.omp_set_num_threads(before)


def _cluster(faiss: object, vectors: np.ndarray, count: int) -> np.ndarray:
    rng = np.random.default_rng(SEED)
    wanted = min(len(vectors), POINTS_A_CENTRE * count)
    rows = np.sort(rng.choice(len(vectors), wanted, replace=False))
    made = faiss.Kmeans(  # type: ignore[attr-defined]
        vectors.shape[1], count, niter=ITERATIONS, seed=SEED, spherical=True, min_points_per_centroid=1,
        max_points_per_centroid=POINTS_A_CENTRE,
    )  # fmt: skip
    made.train(normalized(vectors[rows]))
    found = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), ROWS):
        _, nearest = made.index.search(normalized(vectors[start : start + ROWS]), 1)
        found[start : start + ROWS] = nearest[:, 0]
    return found


def normalized(vectors: np.ndarray) -> np.ndarray:
    """float32 rows of length 1; a row of zeros stays one."""
    whole = vectors.astype(np.float32)
    length = np.linalg.norm(whole, axis=1, keepdims=True)
    found: np.ndarray = np.divide(whole, length, out=np.zeros_like(whole), where=length > 0)
    return found
