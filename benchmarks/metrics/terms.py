"""Columns that are sums of others: what a challenge ranks by, from the formula of its organisers.

NTIRE 2025 image super-resolution, perceptual track: github.com/zhengchen1999/NTIRE2025_ImageSR_x4 at 4c857eb
(README.md, eval.py: pyiqa's defaults, no crop). The organisers put the averages over all images into

    (1 - lpips) + (1 - dists) + clipiqa + maniqa + musiq / 100 + max(0, (10 - niqe) / 10)

Here each image has the sum, without the max, so that differences have intervals: the average of the sums is the sum of
the averages wherever the average niqe is at most 10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

NTIRE = "ntire-2025"
NTIRE_COMMIT = "4c857eb"
# term -> (what is added, and by what the score is multiplied)
TERMS: dict[str, dict[str, tuple[float, float]]] = {
    NTIRE: {
        "lpips": (1.0, -1.0),
        "dists": (1.0, -1.0),
        "clipiqa": (0.0, 1.0),
        "maniqa": (0.0, 1.0),
        "musiq": (0.0, 0.01),
        "niqe": (1.0, -0.1),
    }
}
MOST_NIQE = 10.0  # above it the organisers' term is 0


def add_up(name: str, values: Mapping[str, float]) -> float:
    """The column of an image, or of averages, from the scores of its terms."""
    return sum(added + factor * values[term] for term, (added, factor) in TERMS[name].items())


def why_no_sum(name: str, computed: Sequence[str]) -> str | None:
    """Why a sum has no column, None where all terms are computed."""
    absent = [term for term in TERMS[name] if term not in computed]
    return (
        f"{name} is a sum over {', '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not computed"
        if absent
        else None
    )


def sum_table(name: str, table: pa.Table) -> pa.Table:
    """A row for every (method, seed, id) of a per-image table; one that lacks a term has its reason."""
    by_image: dict[tuple[str, ...], dict[str, dict[str, object]]] = {}
    for row in table.to_pylist():
        if row["metric"] in TERMS[name]:
            key = row["suite"], row["method"], row["seed"], row["id"]
            by_image.setdefault(key, {})[row["metric"]] = row
    rows = []
    for (suite, method, seed, id_), terms in by_image.items():
        lacking = next((term for term in TERMS[name] if terms[term]["value"] is None), None)
        scores = {term: float(str(row["value"])) for term, row in terms.items()} if lacking is None else {}
        about = {"suite": suite, "method": method, "seed": seed, "id": id_, "metric": name, "seconds": None}
        why = None if lacking is None else terms[lacking]["reason"]
        rows.append({**about, "value": None if lacking else add_up(name, scores), "reason": why})
    return pa.Table.from_pylist(rows, table.schema)


def clamped_notes(means: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """A sentence for each method whose average niqe is over 10: what the organisers' formula gives. `means`: metric ->
    method -> average."""
    if NTIRE not in means:
        return []
    lines = []
    for method, niqe in means["niqe"].items():
        if niqe is not None and niqe > MOST_NIQE:
            terms = {term: means[term].get(method) for term in TERMS[NTIRE]}
            whole = {term: value for term, value in terms.items() if value is not None} | {"niqe": MOST_NIQE}
            given = f"{add_up(NTIRE, whole):.4f}" if len(whole) == len(terms) else "unknown"
            lines.append(f"{NTIRE} of {method} by the organisers, whose term of niqe ends at 0, is {given}.")
    return lines
