"""The rules of ranking on small tables whose answers are known by hand; published numbers; tables in every format."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.leaderboard import published
from benchmarks.leaderboard.board import make_leaderboard
from benchmarks.leaderboard.columns import Rules
from benchmarks.metrics.profiles import MetricSpec
from benchmarks.metrics.score import PER_IMAGE
from benchmarks.report import page_tables, tables
from benchmarks.suites import suite as suites
from tests.benchmarks.leaderboard.boards import IDS, board, complete, cut, table
from tests.support.paths import DATA


def test_lower_is_better_is_ranked_so(base: np.ndarray) -> None:
    made = board(
        {"niqe": {"a": base, "b": base - 0.5, "c": base + 0.5}, "musiq": {"a": base, "b": base - 0.5, "c": base + 1}}
    )
    niqe, musiq = (made["metrics"][name]["rows"] for name in ("niqe", "musiq"))
    assert [niqe[m]["rank"] for m in "abc"] == [2, 1, 3]
    assert [musiq[m]["rank"] for m in "abc"] == [2, 3, 1]
    assert made["metrics"]["niqe"]["win_rate"]["b"] == {"a": 1.0, "c": 1.0}
    assert niqe["b"]["first_share"] == 1.0
    rho = np.array(made["correlation"]["rho"])
    assert rho[0, 1] < -0.8  # the same numbers with opposite directions


def test_a_tie_with_the_best_is_marked(base: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    made = board(
        {"musiq": {"best": base, "tied": base + rng.normal(-0.01, 1, 40), "worse": base - 1 + rng.normal(0, 0.1, 40)}}
    )
    rows = made["metrics"]["musiq"]["rows"]
    assert [rows[m]["tied_with_best"] for m in ("best", "tied", "worse")] == [True, True, False]
    pair = next(p for p in made["metrics"]["musiq"]["pairs"] if p["methods"] == ["best", "worse"])
    assert pair["difference"] == pytest.approx(1, abs=0.05)
    assert pair["low"] < pair["difference"] < pair["high"]
    assert pair["p"] <= pair["p_holm"] < 0.05


def test_a_mean_over_a_hole_is_not_ranked(base: np.ndarray) -> None:
    holed = base + 5
    holed[[3, 7]] = np.nan
    made = board({"musiq": {"whole": base, "other": base - 1, "holed": holed}})
    rows = made["metrics"]["musiq"]["rows"]
    assert (rows["holed"]["rank"], rows["holed"]["n"], rows["holed"]["of"]) == (None, 38, 40)
    assert rows["holed"]["reasons"] == {"iqa_not_finite": 2}
    assert rows["holed"]["mean"] == pytest.approx(np.nanmean(holed))
    assert [rows[m]["rank"] for m in ("whole", "other")] == [1, 2]
    assert "holed" not in made["metrics"]["musiq"]["win_rate"]
    assert "n=38/40" in tables.cell(rows["holed"])


def test_methods_with_the_same_part_are_ranked_over_it(base: np.ndarray) -> None:
    few = base.copy()
    few[10:] = np.nan
    scores = {"musiq": {"a": few, "b": few - 1, "c": few + 1}}
    refused = board(scores)["metrics"]["musiq"]
    assert all(row["rank"] is None for row in refused["rows"].values())
    assert refused["why_not"] == (
        "no method has all 40 images; --allow-partial ranks methods with the same images (a 10, b 10, c 10)"
    )
    made = board(scores, allow_partial=True)["metrics"]["musiq"]
    assert (made["n"], made["of"], made["why_not"]) == (10, 40, None)
    assert [made["rows"][m]["rank"] for m in "abc"] == [2, 3, 1]
    limited = board({"musiq": {"a": base[:10], "b": base[:10] - 1}}, IDS[:10], 40)["metrics"]["musiq"]
    assert limited["rows"]["a"]["rank"] is None  # a sample of the suite is not the suite
    scores["musiq"]["d"] = np.roll(few, 30)
    other = board(scores, allow_partial=True)["metrics"]["musiq"]
    assert all(row["rank"] is None for row in other["rows"].values())
    assert other["why_not"] == ("no method has all 40 images, nor have all the same images (a 10, b 10, c 10, d 10)")


def uneven(base: np.ndarray, full: int = 12) -> dict[str, np.ndarray]:
    """Good, poor and full with 10, 11 and `full` of 12 images; three bad ones with the same 3."""
    scores = {"good": cut(base + 3, 10), "poor": cut(base - 1, 11), "full": cut(base, full)}
    return scores | {f"bad{k}": cut(base - 4 - k, 3) for k in range(3)}


@pytest.mark.parametrize("allow_partial", [False, True])
def test_bad_methods_with_few_images_are_not_ranked(allow_partial: bool, base: np.ndarray) -> None:
    scores = {name: uneven(base[:12]) for name in ("musiq", "nima")}
    made = board(scores, IDS[:12], 12, allow_partial=allow_partial, groups={"both": ("musiq", "nima")})
    made = complete(made)
    for metric in made["metrics"].values():
        assert {m: row["rank"] for m, row in metric["rows"].items() if row["rank"]} == {"full": 1}
        assert [m for m, row in metric["rows"].items() if row.get("tied_with_best")] == ["full"]
        assert (metric["n"], metric["why_not"]) == (12, None)
    assert {m: row["rank"] for m, row in made["groups"]["both"]["rows"].items()} == {"full": 1}
    assert tables.order(made)[0] == "full"
    assert [line[0][0] for line in tables.make_body(made) if any(bold for _, bold in line)] == ["full"]
    assert tables.markdown(made).count("**") == 6  # two metrics and the group
    assert [line.split(" &")[0] for line in tables.latex(made).splitlines() if "textbf" in line] == ["full"]
    page = page_tables.make_rows(made)
    assert {method: [cell["kind"] for cell in cells].count("best") for method, cells in page.items()} == {
        **dict.fromkeys(page, 0),
        "full": 3,
    }
    assert [bool(cells[0]["value"]) for cells in page.values()] == [True] + [False] * 5
    rows = list(csv.DictReader(io.StringIO(tables.csv_text(made))))
    assert {row["method"] for row in rows if row["rank"] or row["tied_with_best"] == "True"} == {"full"}


def test_where_nobody_has_every_image_the_line_says_so(base: np.ndarray) -> None:
    made = full_board(base) | board({"musiq": uneven(base[:12], 9), "nima": uneven(base[:12], 9)}, IDS[:12], 12,
                                    allow_partial=True, groups={"both": ("musiq", "nima")})  # fmt: skip
    assert all(row["rank"] is None for row in made["metrics"]["musiq"]["rows"].values())
    assert (made["metrics"]["musiq"]["n"], made["metrics"]["musiq"]["pairs"]) == (0, [])
    line = "No rank in musiq, nima: no method has all 12 images, nor have all the same images "
    line += "(good 10, poor 11, full 9, bad0 3, bad1 3, bad2 3)."
    assert line in tables.notes(made)
    for text in (tables.markdown(made), tables.latex(made)):
        assert line in text
        assert "textbf" not in text
        assert "**" not in text
    assert "No rank over both: no method is ranked in all metrics over the same images." in tables.notes(made)


def test_a_hole_in_one_metric_or_one_seed_costs_that_rank(base: np.ndarray) -> None:
    two = np.stack([base + 1, base + 1.2])
    holed = two.copy()
    holed[1, 7] = np.nan
    scores = {"musiq": {"a": two, "b": two - 1, "c": two - 2}, "nima": {"a": holed, "b": two - 1, "c": two - 2}}
    made = board(scores, allow_partial=True, groups={"both": ("musiq", "nima")})
    assert [made["metrics"]["musiq"]["rows"][m]["rank"] for m in "abc"] == [1, 2, 3]
    assert [made["metrics"]["nima"]["rows"][m]["rank"] for m in "abc"] == [None, 1, 2]
    assert {m: row["rank"] for m, row in made["groups"]["both"]["rows"].items()} == {"b": 1, "c": 2}
    assert made["metrics"]["nima"]["rows"]["a"]["n"] == 39


def test_what_the_suite_has_no_reference_for_is_no_gap_of_a_method(base: np.ndarray) -> None:
    """--gt of 10 of 40: the reference column is ranked over those, and a method that lacks one of them is not."""
    made = table({"psnr": {"a": cut(base, 10), "b": cut(base + 1, 9), "c": cut(base - 1, 10)}}).to_pylist()
    for row in made:
        row["reason"] = None if row["value"] is not None else "missing" if row["id"] == IDS[9] else "no_reference"
    rows = make_leaderboard(pa.Table.from_pylist(made, PER_IMAGE), IDS, 40, [MetricSpec("psnr")], {},
                            Rules(allow_partial=True, resamples=500))["metrics"]["psnr"]  # fmt: skip
    assert ([rows["rows"][m]["rank"] for m in "abc"], rows["n"]) == ([1, None, 2], 10)


def test_a_sample_is_ranked_over_what_was_drawn(base: np.ndarray) -> None:
    scores = {"musiq": {"a": base[:10], "b": cut(base[:10] + 1, 9), "c": base[:10] + 1}}
    rows = board(scores, IDS[:10], 40, allow_partial=True, sampled=True)["metrics"]["musiq"]
    assert ([rows["rows"][m]["rank"] for m in "abc"], rows["n"]) == ([2, None, 1], 10)
    unknown = board(scores, IDS[:10], 40, allow_partial=True)["metrics"]["musiq"]  # these are what outputs happen to be
    assert [unknown["rows"][m]["rank"] for m in "abc"] == [None, None, None]


def test_a_set_metric_says_over_how_many_images_it_is() -> None:
    rows = [{"suite": "s", "method": m, "seed": "0", "id": "", "metric": "fid", "value": 3.5, "reason": None,
             "seconds": 1.0} for m in "ab"]  # fmt: skip
    made = make_leaderboard(pa.Table.from_pylist(rows, PER_IMAGE), IDS, 40, [MetricSpec("fid")], {}, Rules(),
                            in_sets={"a": 3})  # fmt: skip
    assert [tables.cell(made["metrics"]["fid"]["rows"][m]) for m in "ab"] == ["3.500 n=3/40", "3.500"]


SIGNS = {"niqe": -1, "musiq": 1}


def by_hand(scores: dict[str, dict[str, np.ndarray]], total: int, allow_partial: bool) -> dict[str, dict[str, int]]:
    """metric -> method -> rank, by counting who is better, of those that take part."""
    ranks = {}
    for metric, methods in scores.items():
        part = [m for m, values in methods.items() if np.isfinite(values).sum() == total]
        same = {tuple(np.isfinite(values)) for values in methods.values()}
        if not part and allow_partial and len(same) == 1 and any(next(iter(same))):
            part = list(methods)
        means = {m: SIGNS[metric] * np.nanmean(methods[m]) for m in part}
        ranks[metric] = {m: 1 + sum(other > means[m] for other in means.values()) for m in part}
    return ranks


def ranked(made: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {name: {m: row["rank"] for m, row in metric["rows"].items() if row["rank"]}
            for name, metric in made["metrics"].items()}  # fmt: skip


def bold(made: dict[str, Any]) -> dict[str, set[str]]:
    return {name: {m for m, row in metric["rows"].items() if row.get("tied_with_best")}
            for name, metric in made["metrics"].items()}  # fmt: skip


def with_gaps(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    return np.where(rng.random(len(values)) < rng.choice([0.05, 0.3, 0.8]), np.nan, values)


@pytest.mark.parametrize("seed", range(60))
def test_gaps_cost_no_other_its_rank_and_win_none(seed: int) -> None:
    """Images are taken from some methods of a random board. While one of the others is complete, the board of the
    complete ones alone is what is ranked; where none is, all are ranked over the very same images, or nobody is."""
    rng = np.random.default_rng(seed)
    images, names = int(rng.integers(3, 9)), [f"m{k}" for k in range(rng.integers(2, 6))]
    before = {metric: {m: rng.normal(5, 1, images) for m in names} for metric in SIGNS}
    for m in names:
        if rng.random() < 0.3:
            before = {k: v | {m: with_gaps(rng, v[m])} for k, v in before.items()}
    taken = [m for m in names if rng.random() < 0.5]
    after = {k: v | {m: with_gaps(rng, v[m]) for m in taken} for k, v in before.items()}
    allow = bool(rng.integers(2))
    groups = {"both": tuple(SIGNS)}
    made = [board(scores, IDS[:images], images, groups=groups, allow_partial=allow) for scores in (before, after)]
    for scores, each in zip((before, after), made, strict=True):
        assert ranked(each) == by_hand(scores, images, allow)
    for metric in SIGNS:
        first, then = (ranked(each)[metric] for each in made)
        others = [m for m in first if m not in taken and np.isfinite(before[metric][m]).all()]
        if others:  # somebody complete is left
            assert sorted(others, key=first.__getitem__) == sorted(others, key=then.__getitem__)
            assert then.keys() <= first.keys()
            assert not bold(made[1])[metric] - then.keys()
    whole = [m for m in names if all(np.isfinite(after[metric][m]).all() for metric in SIGNS)]
    everywhere = all(any(np.isfinite(v).all() for v in after[metric].values()) for metric in SIGNS)
    if everywhere:
        assert set(made[1]["groups"]["both"]["rows"]) == set(whole)
    for metric in SIGNS:
        complete = {m: v for m, v in after[metric].items() if np.isfinite(v).all()}
        if complete:
            alone = board({metric: complete}, IDS[:images], images, allow_partial=allow)["metrics"][metric]
            mine = made[1]["metrics"][metric]
            assert {m: mine["rows"][m] for m in complete} == alone["rows"]  # ranks, bold, intervals
            assert (mine["pairs"], mine["win_rate"]) == (alone["pairs"], alone["win_rate"])


def test_unranked_metrics_have_no_ranks(base: np.ndarray) -> None:
    spec = [MetricSpec("lr_consistency", ranked=False)]
    made = make_leaderboard(table({"lr_consistency": {"a": base, "b": base + 1}}), IDS, 40, spec, {},
                            Rules(resamples=500))  # fmt: skip
    rows = made["metrics"]["lr_consistency"]["rows"]
    assert rows["a"]["rank"] is None
    assert rows["a"]["mean"] == pytest.approx(base.mean())


def test_overall_ranks_exist_only_over_whole_named_groups(base: np.ndarray) -> None:
    scores = {"niqe": {"a": base, "b": base + 1, "c": base + 2}, "musiq": {"a": base, "b": base + 1, "c": base - 1}}
    assert board(scores)["groups"] == {}
    made = board(scores, groups={"both": ("niqe", "musiq"), "more": ("niqe", "maniqa")})["groups"]
    assert {m: made["both"]["rows"][m]["mean_rank"] for m in "abc"} == {"a": 1.5, "b": 1.5, "c": 3.0}
    assert made["more"] == {"metrics": ["niqe", "maniqa"], "rows": {}, "why_not": "not computed: maniqa"}


def test_seeds_widen_the_interval_and_are_averaged(base: np.ndarray) -> None:
    one = board({"musiq": {"a": base}})["metrics"]["musiq"]["rows"]["a"]
    two = board({"musiq": {"a": np.stack([base, base + 2])}})["metrics"]["musiq"]["rows"]["a"]
    assert (one["seeds"], two["seeds"]) == (1, 2)
    assert two["mean"] == pytest.approx(base.mean() + 1)
    assert two["high"] - two["low"] > 1.5 * (one["high"] - one["low"])


def test_equal_scores_give_an_equal_board(base: np.ndarray) -> None:
    scores = {"musiq": {"a": base, "b": base + 0.1}}
    assert json.dumps(board(scores)) == json.dumps(board(scores))


def test_published_numbers_equal_an_independent_transcription() -> None:
    """published_scores.json beside this test was read from the papers separately, as arrays in column order."""
    other = json.loads((DATA / "published_scores.json").read_text())
    ours = {paper["source"]: paper["benchmarks"] for paper in published.read_published()}
    checked = 0
    for source, name in (
        ("LucidFlux", "lucidflux_arxiv_2509.22414v4_table1"),
        ("DreamClear", "dreamclear_arxiv_2410.18666_table1"),
        ("OFTSR", "oftsr_arxiv_2412.09465_table5"),
        ("OFTSR", "oftsr_arxiv_2412.09465_table6"),
    ):
        methods = other[name]["methods"]
        for benchmark, metrics in other[name].items():
            columns = methods
            if benchmark == "RealLQ250_input_and_commercial_table2":
                benchmark, columns, metrics = (
                    "RealLQ250",
                    metrics["methods"],
                    {k: v for k, v in metrics.items() if k != "methods"},
                )
            if benchmark in ("methods", "runtime_table3_seconds"):
                continue
            for metric, values in metrics.items():
                for method, value in zip(columns, values, strict=True):
                    assert ours[source][benchmark][method][metric] == value, (source, benchmark, method, metric)
                    checked += 1
    # Every number was checked; LucidFlux, and SinSR and OFTSR in one step, stand in two tables of their papers.
    assert checked == sum(len(v) for paper in ours.values() for b in paper.values() for v in b.values()) + 7 + 2 * 3


def test_published_numbers_equal_the_papers_tables_number_by_number() -> None:
    """paper_results.json beside this test: Tables 1 and 2 as read from the paper, every cell of them."""
    paper = json.loads((DATA / "paper_results.json").read_text())
    (ours,) = [p["benchmarks"] for p in published.read_published() if p["source"] == "LucidFlux"]
    plain = {"CLIP-IQA+": "clipiqa+", "Q-Align": "qalign", "CLIP-IQA": "clipiqa"}
    cells = {}
    for benchmark, metrics in paper["table1"]["benchmarks"].items():
        for metric, row in metrics.items():
            for method in paper["table1"]["methods"]:
                cells[benchmark, method, plain.get(metric, metric.lower())] = row["values"][method]
    for method, row in paper["table2"]["rows"].items():
        for metric, value in row.items():
            cells["RealLQ250", method, plain.get(metric, metric.lower())] = value
    flat = {(b, m, k): v for b, rows in ours.items() for m, row in rows.items() for k, v in row.items()}
    assert flat == cells


def test_published_rows_are_coloured_by_the_largest_difference_between_laboratories() -> None:
    limits = published.tolerances()
    assert limits["musiq"] == pytest.approx(2.05)
    assert limits["maniqa"] == pytest.approx(0.0419)
    assert limits["niqe"] == pytest.approx(0.6599)
    assert limits["clipiqa"] == pytest.approx(0.7166 - 0.6990)  # SinSR in the first and the third paper
    suite = suites.load_suite("reallq250", None)
    row = next(row for row in published.published_rows(suite, ["niqe", "musiq", "nima"]) if row["method"] == "SeeSR")

    def measured(**means: float) -> dict[str, Any]:
        return {name: {"rows": {"seesr[50]": {"mean": mean, "n": 250, "of": 250}}} for name, mean in means.items()}

    metrics = measured(niqe=4.4383 + 0.5, musiq=70.38 - 3, nima=5.0)
    assert published.colours(row, suite, metrics) == {"niqe": "green", "musiq": "yellow", "nima": "dim"}
    assert published.colours(row, suite, measured(niqe=9.0))["niqe"] == "red"
    assert set(published.colours(row, suites.load_suite("realsr", None), metrics).values()) == {"dim"}
    metrics["niqe"]["rows"]["seesr[50]"]["n"] = 249
    assert published.colours(row, suite, metrics)["niqe"] == "dim"


def full_board(base: np.ndarray) -> dict[str, Any]:
    suite = suites.load_suite("reallq250", None)
    made = board({"niqe": {"a_b": base, "c&d": base + 1}}, groups={"one": ("niqe",)})
    rows = [row | {"colours": {}} for row in published.published_rows(suite, ["niqe"])]
    head = {"suite": "s:1", "profile": "p", "about": "About.", "flags": {"a_b": ["one seed"]}, "footnotes": []}
    return (
        made
        | head
        | {"not_computed": {}, "runs": {"a_b": {"seconds_per_image": 22.5}}, "published": rows, "signature": "s:1|n:40"}
    )


def test_markdown_latex_and_csv_hold_the_same_numbers(base: np.ndarray) -> None:
    made = full_board(base)
    mean = f"{base.mean():.3f}"
    markdown, latex = tables.markdown(made), tables.latex(made)
    assert f"**{mean} ±" in markdown
    assert "| _SUPIR (published, LucidFlux)_ | _3.6591_ |" in markdown
    assert markdown.rstrip().endswith("Signature: `s:1|n:40`"), "to be copied as it stands"
    assert r"a\_b & \textbf{" + mean in latex
    assert "| s/image | remarks |" in markdown
    assert " #1** |" in markdown
    assert " #2 |" in markdown
    assert "| 22.5 | one seed |" in markdown
    assert r"c\&d" in latex
    assert latex.count(r"\\") == 1 + 2 + len(made["published"])
    assert all(line.count("&") - line.count(r"\&") == 3 for line in latex.splitlines() if line.endswith(r"\\"))
    rows = list(csv.DictReader(io.StringIO(tables.csv_text(made))))
    assert float(rows[0]["mean"]) == base.mean()
    assert [row["rank"] for row in rows[:2]] == ["1", "2"]
    assert sum(row["kind"] == "published" for row in rows) == len(made["published"])
