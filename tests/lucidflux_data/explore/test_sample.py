"""Pages of more candidates than they hold: intervals around the truth, and the run's own setting exact."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.throughput.large.generated import generate_run
from lucidflux_data.explore.rows import find_units, read_deciding
from lucidflux_data.explore.sample import draw_sample
from lucidflux_data.selection import ledger
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.selection.pool import Pool, load_pool
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import table_bytes
from lucidflux_data.storage.run_folder import unit_name, unit_size
from pipelines.filter.measures import HISTORY_SCHEMA
from tests.support import chromium

ROWS, SHOWN = 40_000, 6_000


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pool, FilterConfig]:
    place = tmp_path_factory.mktemp("generated") / "run"
    folder = Folder(str(place))
    generate_run(folder, ROWS)
    config = FilterConfig.model_validate(runs.read_run(folder)["config"])
    pool = load_pool(runs.parts(folder))
    ledger.write_ledger(folder, pool, config)
    return place, pool, config


def draw_twenty(tab: chromium.Page) -> list[tuple[dict[str, Any], list[str]]]:
    """Settings that let nobody in who has no score, from hardly different to very."""
    rng, drawn = np.random.default_rng(1), []
    own = tab.value("explore.about.own")
    for number in range(20):
        side, low = int(rng.integers(800, 4000)), round(float(150 + rng.exponential(60)), 2)
        high, flat = round(float(rng.uniform(900, 8000)), 1), round(float(rng.uniform(0.15, 0.5)), 3)
        limits = {
            "min_side": side,
            "min_laplacian_variance": low,
            "max_laplacian_variance": high,
            "max_flat_fraction": flat,
        }
        some = dict(list(limits.items())[number % 4 : number % 4 + 1 + number % 3])
        mode, value = (("fraction", f"0.{rng.integers(5, 60):02d}"), ("k", int(rng.integers(500, 9000))),
                       ("bound", round(float(rng.normal(5, 0.7)), 3)))[number % 3]  # fmt: skip
        cut = {"mode": mode, "fraction": "1", "k": 1, "bound": None} | {mode: value}
        settings = [f"rules.{name}={limit}" for name, limit in some.items()] + {
            "fraction": [f"cut.top_fraction={value}"],
            "k": ["cut.top_fraction=none", f"cut.top_k={value}"],
            "bound": ["cut.top_fraction=1", f"select.where=niqe <= {value}"],
        }[mode]
        drawn.append(({"rules": own["rules"] | some, "cut": cut}, settings))
    return drawn


def test_the_interval_holds_in_nineteen_of_twenty_settings(
    generated: tuple[Path, Pool, FilterConfig], tab: chromium.Page, explore: Callable
) -> None:
    run, pool, config = generated
    made = explore(run, SHOWN)
    assert made["candidates"] == ROWS
    assert SHOWN * 0.9 < made["shown"] <= SHOWN * 1.2
    held, widths = 0, []
    for state, settings in draw_twenty(tab):
        truth = ledger.count_codes(ledger.decide(pool, make_config(settings=settings, base=config))[0])["kept"]
        kept, low, high = tab.value(f"(f => [f.kept, f.low, f.high])(explore.counter.count({json.dumps(state)}))")
        assert low <= kept <= high
        held += low <= truth <= high
        widths.append((high - low) / max(1, truth))
    assert held >= 19
    assert np.median(widths) < 0.1, "an interval that says something"


def test_the_runs_own_setting_is_exact_and_so_is_another_cut_of_it(
    generated: tuple[Path, Pool, FilterConfig], tab: chromium.Page, explore: Callable
) -> None:
    run, pool, config = generated
    explore(run, SHOWN)
    own = tab.value("(f => [f.kept, f.low, f.high, ...f.counts])(explore.counter.count(explore.about.own))")
    counts = ledger.counts(runs.read_ledger(Folder(str(run)), ["keep", "reason"]))
    assert own[:3] == [counts["kept"]] * 3
    assert sum(own[3:]) == ROWS
    third = tab.value("""(f => [f.kept, f.low, f.high])(explore.counter.count(
        {rules: explore.about.own.rules, cut: {...explore.about.own.cut, fraction: "0.37"}}))""")
    truth = ledger.count_codes(ledger.decide(pool, make_config(settings=["cut.top_fraction=0.37"], base=config))[0])
    assert third == [truth["kept"]] * 3
    assert "kept" in tab.value("document.querySelector('header').textContent")


def test_near_duplicates_of_a_sample_are_estimated(
    generated: tuple[Path, Pool, FilterConfig], tmp_path: Path, tab: chromium.Page, explore: Callable
) -> None:
    """One image in four is a copy of another: both are drawn or neither, and intervals are around what is kept."""
    run = tmp_path / "run"
    shutil.copytree(generated[0], run)
    folder = Folder(str(run))
    rng = np.random.default_rng(5)
    hashes = rng.integers(0, 2**64, ROWS, dtype=np.uint64)
    copies = rng.permutation(ROWS)[: ROWS // 4]
    hashes[copies] = hashes[rng.integers(0, ROWS, len(copies))] ^ np.uint64(3)
    basic = runs.read_basic(folder, ["uri", "key"])
    size = unit_size(ROWS)
    for number, start in enumerate(range(0, ROWS, size)):
        part = basic.slice(start, size)
        nulls = {name: pa.nulls(len(part), HISTORY_SCHEMA.field(name).type) for name in HISTORY_SCHEMA.names[2:]}
        columns = {"uri": part["uri"], "key": part["key"], **nulls, "phash": hashes[start : start + size]}
        table = pa.table({name: columns[name] for name in HISTORY_SCHEMA.names}).cast(HISTORY_SCHEMA)
        folder.publish(f"scores/history/{unit_name(number)}.parquet", table_bytes(table))
    config = make_config(settings=["select.near_duplicates=4"], base=generated[2])
    pool = load_pool(runs.parts(folder))
    ledger.write_ledger(folder, pool, config)
    run_folder.write_about(folder, runs.renew_run(runs.read_run(folder), config, {}))
    explore(run, SHOWN)
    own = tab.value("(f => [f.kept, f.low, f.high])(explore.counter.count(explore.about.own))")
    assert own == [ledger.count_codes(ledger.decide(pool, config)[0])["kept"]] * 3
    fewer = {"min_side": 2000, "max_flat_fraction": 0.3}
    cut = {"mode": "fraction", "fraction": "0.5", "k": 900, "bound": None}
    for settings, change in (
        (["cut.top_fraction=0.5"], {"cut": cut}),
        (["rules.min_side=2000", "rules.max_flat_fraction=0.3"], {"rules": fewer}),
        (["cut.top_fraction=none", "cut.top_k=900"], {"cut": cut | {"mode": "k"}}),
    ):
        rules = json.dumps(change.get("rules", {}))
        asked = json.dumps(change["cut"]) if "cut" in change else "explore.about.own.cut"
        state = f"{{rules: {{...explore.about.own.rules, ...{rules}}}, cut: {asked}}}"
        low, high = tab.value(f"(f => [f.low, f.high])(explore.counter.count({state}))")
        truth = ledger.count_codes(ledger.decide(pool, make_config(settings=settings, base=config))[0])["kept"]
        assert low <= truth <= high, settings
        assert high - low < 0.5 * truth


def test_a_sample_weighs_to_the_whole_and_takes_near_duplicates_together(
    generated: tuple[Path, Pool, FilterConfig],
) -> None:
    run, pool, config = generated
    deciding = read_deciding(Folder(str(run)), pool, config)
    assert draw_sample(deciding, find_units(deciding, None), ROWS) is None
    roots = np.arange(ROWS) // 3 * 3  # every three are linked
    sample = draw_sample(deciding, roots, SHOWN)
    assert sample is not None
    assert sample.sizes.sum() == len(np.unique(roots))
    assert np.bincount(sample.units).min() >= 1
    whole = np.bincount(roots // 3)
    assert (
        np.bincount(sample.units) == whole[roots[sample.rows[np.unique(sample.units, return_index=True)[1]]] // 3]
    ).all()
    units = np.unique(sample.units, return_index=True)[1]
    assert (np.bincount(sample.strata[units], minlength=len(sample.sizes)) == sample.drawn).all()
    weights = sample.sizes[sample.strata] / sample.drawn[sample.strata]
    assert weights.sum() == pytest.approx(ROWS, rel=0.001)
    again = draw_sample(deciding, roots, SHOWN)
    assert again is not None
    assert (again.rows == sample.rows).all()
