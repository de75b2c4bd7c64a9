"""What a reader of a leaderboard's numbers must know, in sentences that every view of it has."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.leaderboard.schema import Board, Gap, MetricTable
from benchmarks.report.draws import draw_notes
from benchmarks.report.votes import vote_notes

COMMON_IDS = "common_ids.txt"
NAMED = 5  # images of a method that are named; the page has all


def notes(board: Board) -> list[str]:
    """One sentence a line; the first says what the profile is, the last is the signature."""
    lines = [board["about"]]
    partial = sorted({metric["n"] for metric in board["metrics"].values() if 0 < metric["n"] < metric["of"]})
    if partial:
        sizes = " or ".join(f"n={n}/{board['images']['of']}" for n in partial)
        lines.append(f"Ranks are over a part of the images that every ranked method has: {sizes}.")
    lines.append(
        f"± is half of a {board['statistics']['level']:.0%} bootstrap interval ({board['statistics']['resamples']:,} "
        f"resamples); bold: best, or tied with it ({board['statistics']['test']} test, Holm over a metric's pairs)."
    )
    lines += _by_reason("Nothing is bold in", {name: metric["no_test"] for name, metric in board["metrics"].items()})
    lines += [line for name, metric in board["metrics"].items() if (line := _paired(name, metric))]
    lines += _by_reason("No rank in", {name: metric["why_not"] for name, metric in board["metrics"].items()})
    lines += _common(board)
    lines += [line for method in board["methods"] if (line := _lacking(board, method))]
    lines += _not_shown(board)
    lines += _not_computed(board["not_computed"])
    lines += [f"No rank over {name}: {g['why_not']}." for name, g in board["groups"].items() if g["why_not"]]
    lines += draw_notes(board)
    lines += _without_flagged(board)
    lines += board["footnotes"]
    lines += vote_notes(board.get("votes"))
    return [*lines, f"Signature: {board['signature']}"]


def _without_flagged(board: Board) -> list[str]:
    """How many references the filter would reject, and which ranks are others without them."""
    without = board.get("without_flagged")
    if without is None:
        return []
    kinds = sorted(set(without["flagged"].values()))
    which = ", ".join(f"{list(without['flagged'].values()).count(kind)} {kind}" for kind in kinds)
    moved = [
        f"{name}: {method} {before} to {after}"
        for name, ranks in without["ranks"].items()
        for method, after in ranks.items()
        if (before := board["metrics"][name]["rows"][method]["rank"]) is not None and before != after
    ]
    change = f"ranks without them: {'; '.join(moved)}" if moved else "no rank changes without them"
    count = len(without["flagged"])
    return [f"{count} reference{'s' * (count != 1)} would not pass the filter's rules ({which}); {change}."]


def best_of(metric: MetricTable) -> str | None:
    """The method of the first rank, the first of several; None where nobody is ranked."""
    return next((method for method, row in metric["rows"].items() if row["rank"] == 1), None)


def _by_reason(start: str, whys: dict[str, str | None]) -> list[str]:
    """A line for each reason, with the metrics that have it. `whys`: metric -> reason, None where there is none."""
    reasons: dict[str, list[str]] = {}
    for name, why in whys.items():
        if why:
            reasons.setdefault(why, []).append(name)
    return [f"{start} {', '.join(names)}: {why}." for why, names in reasons.items()]


def _paired(name: str, metric: MetricTable) -> str | None:
    """`psnr: lanczos is first; p of the difference to it (Holm): bicubic 0.031, nearest 0.0012.`"""
    best = best_of(metric)
    pairs = [pair for pair in metric["pairs"] if best in pair["methods"]]
    if best is None or not pairs:
        return None
    rows = metric["rows"]
    others = sorted(((_other(pair["methods"], best), pair["p_holm"]) for pair in pairs),
                  key=lambda item: rows[item[0]]["rank"] or 0)  # fmt: skip
    each = ", ".join(f"{method} {p:.2g}" for method, p in others)
    return f"{name}: {best} is first; paired p of the difference to it (Holm): {each}."


def _other(methods: list[str], one: str) -> str:
    return methods[1] if methods[0] == one else methods[0]


def _common(board: Board) -> list[str]:
    common = board["common"]
    if common is None:
        return []
    count, methods = len(common["ids"]), len(common["methods"])
    all_ = len(board["methods"]) + len(board["not_shown"])
    return [
        f"{methods} of {all_} methods ({', '.join(common['methods'])}) have the same {count} "
        f"image{'s' * (count != 1)}: --ids {COMMON_IDS}, beside this table, ranks them over these."
    ]


def _lacking(board: Board, method: str) -> str | None:
    """What a method lacks, and how it compares with the best over the images that both have."""
    gaps = board["gaps"].get(method)
    if not gaps:
        return None
    images = list(dict.fromkeys(gap["id"] for gap in gaps))
    lacking = ", ".join(_gap(gap, board) for gap in gaps[:NAMED]) + (", ..." if len(gaps) > NAMED else "")
    line = f"{method} lacks {len(images)} of {board['images']['scored']} images: {lacking}."
    pairs = list(_over_shared(board, method))
    return f"{line} Over the images that both have: {'; '.join(pairs)}." if pairs else line


def _gap(gap: Gap, board: Board) -> str:
    return f"{gap['id']} ({gap['reason']}{in_which(gap, board)})"


def in_which(gap: Gap, board: Board) -> str:
    """` in niqe, musiq`; nothing where it is in all metrics of single images."""
    every = [name for name in board["metrics"] if name != "fid"]
    return "" if len(gap["metrics"]) >= len(every) else f" in {', '.join(gap['metrics'])}"


def _over_shared(board: Board, method: str) -> Iterable[str]:
    """`psnr +0.31 to lanczos (n=10, p=0.02)` for each metric in which a method is not ranked."""
    for name, metric in board["metrics"].items():
        best = best_of(metric)
        for pair in metric["shared"]:
            if best is not None and method in pair["methods"] and best in pair["methods"]:
                sign = 1 if pair["methods"][0] == method else -1
                difference = sign * pair["difference"] + 0.0  # no -0
                yield f"{name} {difference:+.3g} to {best} (n={pair['n']}, p={pair['p_holm']:.2g})"


def _not_shown(board: Board) -> list[str]:
    few = board["not_shown"]
    if not few:
        return []
    hidden = ", ".join(f"{method} ({row['images']})" for method, row in few.items())
    return [f"Not shown, with fewer images than --min-images: {hidden}."]


def _not_computed(reasons: dict[str, str]) -> list[str]:
    """One line: what lacks a reference or the inputs by the option that gives them, the rest left to `bench doctor`."""
    if not reasons:
        return []
    kinds: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        compares = reason.startswith(f"{name} compares with")
        what = reason.removeprefix(f"{name} ") if compares else "`lucidflux bench doctor` says what is missing"
        kinds.setdefault(what, []).append(name)
    return ["Not computed: " + "; ".join(f"{', '.join(names)} ({what})" for what, names in kinds.items()) + "."]
