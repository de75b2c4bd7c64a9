"""The script of the page decides as `select` does: reason by reason and image by image, on real runs."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.storage.folder import Folder
from pipelines.filter import job
from tests.support import chromium
from tests.support.here import QUIET, Here, select_into

OPEN = ["rules.min_laplacian_variance=0", "rules.max_laplacian_variance=1e9", "rules.max_flat_fraction=1"]


@pytest.fixture(scope="module")
def loose(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that can be measured is: each setting is decided from what is there. With an opt-out list, a --where
    on the score and on a column with nulls, and near-duplicates."""
    root = tmp_path_factory.mktemp("loose")
    (root / "out.txt").write_text(hashlib.sha256((photos / "grass.png").read_bytes()).hexdigest() + "\n")
    decided = [f"select.opt_out={root / 'out.txt'}", "select.where=niqe < 40 or jpeg_quality > 99"]
    return select_into(photos, root / "run", *OPEN, *decided, "rules.max_blockiness=50", "select.near_duplicates=8",
                       "iqa.metric=niqe", "cut.top_fraction=1")  # fmt: skip


def draw_settings(tab: chromium.Page, seed: int) -> tuple[dict[str, Any], list[str]]:
    """As the page has them and as `--set` takes them. Limits are values that images have: some lie on a bound."""
    drawn = random.Random(seed)
    state = tab.value("({rules: {...explore.about.own.rules}, cut: {...explore.about.own.cut}})")
    settings = []
    for rule in tab.value("explore.about.rules"):
        if drawn.random() < 0.5:
            column = f"explore.columns['measure-{rule['measure']}']"
            listed = tab.value(f"Array.from({column}).map(v => isFinite(v) ? v : -1)")
            values = sorted({v for v in listed if v >= (1 if rule["measure"] == "blockiness" else 0)})
            half = len(values) // 2
            value = drawn.choice((values[1 : half + 1] if rule["sense"] == "min" else values[half:-1]) or values)
            state["rules"][rule["setting"]] = value
            settings.append(f"rules.{rule['setting']}={int(value) if rule['whole'] else value!r}")
    mode = ("fraction", "k", "bound", "all")[seed % 4]
    scores = [
        v for v in tab.value("Array.from(explore.columns['measure-score']).map(v => isFinite(v) ? v : -1)") if v > 0
    ]
    value = {"fraction": f"0.{drawn.randrange(1, 100):02d}", "k": drawn.randrange(1, 12), "bound": drawn.choice(scores)}
    state["cut"] = {"fraction": "1", "k": 1, "bound": None, "mode": mode} | (
        {mode: value[mode]} if mode in value else {}
    )
    settings += ["cut.top_k=none", f"cut.top_fraction={value['fraction'] if mode == 'fraction' else '1'}"]
    if mode == "k":
        settings = [*settings[:-2], "cut.top_fraction=none", f"cut.top_k={value['k']}"]
    if mode == "bound":
        where = tab.value("explore.about.where")
        settings.append(f"select.where=({where}) and niqe <= {value['bound']!r}")
    return state, settings


def select(run: Path, settings: list[str]) -> tuple[dict[str, Any], dict[str, str | None]]:
    """What `select --json` counts, and each image's reason, in a copy of the run."""
    copy = run.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    base = FilterConfig.model_validate(runs.read_run(Folder(str(run)))["config"])
    counts = job.select(Folder(str(copy)), make_config(settings=settings, base=base), Here(), QUIET)
    return counts, {row["source_key"]: row["reason"] for row in pq.read_table(copy / "selected.parquet").to_pylist()}


def count_in_page(tab: chromium.Page, state: dict[str, Any]) -> dict[str, Any]:
    """Of the page: kept, by reason, each image's reason."""
    script = f"""(found => ({{kept: found.kept, low: found.low, high: found.high, unscored: found.unscored,
        unmeasured: found.unmeasured, counts: Array.from(found.counts), codes: Array.from(found.codes)}}))
        (explore.counter.count({json.dumps(state)}))"""
    found = tab.value(script)
    reasons = [name for name, _ in tab.value("explore.about.reasons")]
    names = tab.value("explore.columns.names")
    found["reasons"] = {
        name: None if code == -1 else dict(enumerate(reasons)).get(code, "not measured")
        for name, code in zip(names, found["codes"], strict=True)
    }
    found["by_reason"] = {name: count for name, count in zip(reasons, found["counts"][1:], strict=False) if count}
    return found


def test_ten_random_settings_count_as_select_does(loose: Path, tab: chromium.Page, explore: Callable) -> None:
    explore(loose)
    seen: set[str] = set()
    for seed in range(10):
        state, settings = draw_settings(tab, seed)
        found = count_in_page(tab, state)
        counts, reasons = select(loose, settings)
        assert (found["unscored"], found["unmeasured"]) == (0, 0)
        assert (found["kept"], found["low"], found["high"]) == (counts["kept"],) * 3, settings
        assert found["by_reason"] == counts["rejected"] | counts["failed"], settings
        assert found["reasons"] == reasons, settings
        seen |= counts["rejected"].keys()
    assert {"too_small", "too_blurry", "too_sharp", "too_flat", "low_iqa", "opted_out", "duplicate"} <= seen
    assert {"jpeg_artifacts", "where_not_met", "near_duplicate"} <= seen


def test_a_setting_that_lets_more_in_says_at_least_and_how_many_are_to_be_scored(
    half: Path, tab: chromium.Page, explore: Callable
) -> None:
    explore(half, fragment="#min_laplacian_variance=0&max_flat_fraction=1")
    state = tab.value("explore.page.fromHash(location.hash, {})")
    settings = [*OPEN[:1], OPEN[2]]
    found, (counts, _) = count_in_page(tab, state), select(half, settings)
    base = FilterConfig.model_validate(runs.read_run(Folder(str(half)))["config"])
    preview = job.preview(runs.parts(Folder(str(half))), make_config(settings=settings, base=base))
    assert found["unscored"] == preview["scores_to_compute"] > 0
    assert found["low"] < counts["kept"]
    assert tab.value("document.querySelector('#kept').textContent") == f"at least {found['low']}"
    assert f"{found['unscored']} to be scored" in tab.value("document.querySelector('#kept-note').textContent")


def test_a_run_without_a_metric_counts_as_select_does(
    photos: Path, tmp_path: Path, tab: chromium.Page, explore: Callable
) -> None:
    select_into(photos, tmp_path / "run", "iqa.metric=none", "select.near_duplicates=8")
    explore(tmp_path / "run")
    state = tab.value(
        "({rules: {...explore.about.own.rules, min_side: 300, max_flat_fraction: .3}, cut: explore.about.own.cut})"
    )
    found, (counts, reasons) = (
        count_in_page(tab, state),
        select(tmp_path / "run", ["rules.min_side=300", "rules.max_flat_fraction=0.3"]),
    )
    assert (found["kept"], found["reasons"]) == (counts["kept"], reasons)
    assert "near_duplicate" in reasons.values()


def test_included_images_and_those_of_a_benchmark_count_as_select_does(
    photos: Path, tmp_path: Path, tab: chromium.Page, explore: Callable
) -> None:
    """An included one is kept beside every slider, unless it is a benchmark's; copies of it are out."""
    suite = tmp_path / "suite"
    suite.mkdir()
    for name in ("coffee.png", "astronaut.png"):
        shutil.copyfile(photos / name, suite / name)
    forbid = [f"select.forbid={suite}", "cut.top_fraction=0.5", "iqa.metric=niqe", *OPEN]
    folder = Folder(str(select_into(photos, tmp_path / "run", *forbid)))
    config = FilterConfig.model_validate(runs.read_run(folder)["config"])
    names = ("coffee.png", "cell.png", "clock_motion.png")
    by_hand = [hashlib.sha256((photos / name).read_bytes()).hexdigest() for name in names]
    (tmp_path / "include.txt").write_text("\n".join(by_hand))
    job.include(folder, [str(tmp_path / "include.txt")], config, Here(), QUIET)
    job.select(folder, config, Here(), QUIET)
    explore(tmp_path / "run")
    seen: set[str | None] = set()
    for side, fraction in ((0, "0.5"), (200, "0.3"), (300, "1")):
        rules = f"{{...explore.about.own.rules, min_side: {side}, max_flat_fraction: .4}}"
        state = tab.value(f"({{rules: {rules}, cut: {{...explore.about.own.cut, fraction: '{fraction}'}}}})")
        settings = [f"rules.min_side={side}", "rules.max_flat_fraction=0.4", f"cut.top_fraction={fraction}"]
        found, (counts, _) = count_in_page(tab, state), select(tmp_path / "run", settings)
        assert (found["kept"], found["unscored"], found["unmeasured"]) == (counts["kept"], 0, 0)
        by_reason = counts["rejected"] | counts["failed"] | {"included": counts["included"]}
        assert found["by_reason"] == {reason: count for reason, count in by_reason.items() if count}
        seen |= found["by_reason"].keys()
    assert {"included", "benchmark_leak", "too_small"} <= seen
