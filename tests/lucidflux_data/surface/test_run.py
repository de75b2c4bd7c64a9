"""Run and Selection: what `select` decides, without writing; tables, pixels and pages of a run."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lucidflux_data import Run, decode
from lucidflux_data.errors import ConfigError, InputError, LucidFluxError
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.selection.options import option_settings
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.run_folder import FORGOTTEN
from pipelines.filter import job
from tests.support.here import QUIET, Here, select_into

WHERE = ("", "niqe < 6 or noise > 2", "width > 200 and not (format == 'png')", "leak_bits > 9")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def select(run: Path, settings: list[str]) -> tuple[Any, dict[str, Any]]:
    """The ledger and the counts of `select` in a copy of the run."""
    copy = run.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    base = FilterConfig.model_validate(runs.read_run(Folder(str(run)))["config"])
    counts = job.select(Folder(str(copy)), make_config(settings=settings, base=base), Here(), QUIET)
    return pq.read_table(copy / "selected.parquet"), counts


def draw_options(measured: Path, seed: int) -> tuple[list[str], dict[str, Any]]:
    """Settings and short options; limits are values that images have, so that some lie on a bound."""
    drawn = random.Random(seed)
    table = pq.read_table(measured / "selected.parquet")
    history = pq.read_table(sorted((measured / "scores" / "history").iterdir()))
    home = measured.parent

    def value(column: str, source: Any = table) -> Any:
        return drawn.choice(sorted(v for v in source[column].to_pylist() if v is not None))

    rules = {
        "min_laplacian_variance": lambda: value("laplacian_variance") / drawn.choice((1, 3)),
        "max_flat_fraction": lambda: drawn.choice((value("flat_fraction"), 0.2)),
        "max_blockiness": lambda: max(1, value("blockiness", history)),
        "min_spectral_cutoff": lambda: value("spectral_cutoff", history),
        "min_fixed_sharpness": lambda: value("fixed_sharpness", history),
        "min_jpeg_quality": lambda: drawn.choice((80, 96)),
    }
    settings = [f"rules.{name}={make()!r}" for name, make in rules.items() if drawn.random() < 0.3]
    several = {
        "iqa": lambda: drawn.choice(("none", "niqe")),
        "min_side": lambda: drawn.choice((0, 160, 141)),
        "near_duplicates": lambda: drawn.choice((None, 0, 4, 16)),
        "opt_out": lambda: drawn.choice((home / "out.txt", [])),
        "forbid": lambda: None,
        "where": lambda: drawn.choice(WHERE),
    }
    options = {name: make() for name, make in several.items() if drawn.random() < 0.4}
    options |= drawn.choice(({}, {"top_k": drawn.randrange(1, 9)}, {"top_fraction": drawn.choice((0.3, "0.75", 1))}))
    if drawn.random() < 0.3:
        labels = [home / "labels, mine.parquet"]
        options |= {"join": labels, "where": "aesthetic > 2", "carry": ["licence", "aesthetic"]}
    if "forbid" in options and "leak" in options.get("where", ""):
        del options["forbid"]
    return settings, options


def test_select_decides_as_the_command_does_under_any_rules(measured: Path) -> None:
    run, before = Run(measured), files_of(measured)
    seen: set[str] = set()
    for seed in range(28):
        settings, options = draw_options(measured, seed)
        ledger, counts = select(measured, [*settings, *option_settings(options)])
        selection = run.select(settings, **options)
        assert selection.ledger().equals(ledger), (settings, options)
        assert selection.keys == ledger.filter(ledger["keep"])["key"].to_pylist()
        counts.pop("benchmarks", None)
        assert selection.counts() == counts == run.what_if(settings, **options)["then"], (settings, options)
        seen |= counts["rejected"].keys()
    assert seen >= {"opted_out", "benchmark_leak", "duplicate", "too_small", "too_blurry", "too_flat", "jpeg_artifacts",
                    "where_not_met", "low_iqa", "near_duplicate"}  # fmt: skip
    assert files_of(measured) == before


def test_included_and_forgotten_images_decide_as_the_command_says(measured: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(measured, run)
    (tmp_path / "keep.txt").write_text(hashlib.sha256((measured.parent / "photos" / "02.jpg").read_bytes()).hexdigest())
    config = FilterConfig.model_validate(runs.read_run(Folder(str(run)))["config"])
    job.include(Folder(str(run)), [str(tmp_path / "keep.txt")], config, Here(), QUIET)
    job.select(Folder(str(run)), config, Here(), QUIET)
    forgotten = hashlib.sha256((measured.parent / "photos" / "00.jpg").read_bytes()).hexdigest()
    (run / FORGOTTEN).write_text(f"{forgotten}\n")
    for options in ({"top_k": 1}, {"near_duplicates": 16}, {"opt_out": None, "min_side": 200}):
        ledger, counts = select(run, option_settings(options))
        selection = Run(run).select(**options)
        assert selection.ledger().equals(ledger), options
        assert counts["included"] == selection.counts()["included"] == 1
        assert counts["rejected"]["opted_out"] == Run(run).what_if(**options)["then"]["rejected"]["opted_out"] == 1


@pytest.fixture(scope="module")
def plain(small: Path) -> Path:
    """The better half by NIQE of what the rules leave; nothing else was measured."""
    return select_into(small, small.parent / "plain", "iqa.metric=niqe", "cut.top_fraction=0.5")


@pytest.mark.parametrize(
    ("settings", "measure"),
    [
        ((), "niqe score"),
        (("select.near_duplicates=4",), "history measures"),
        (("rules.min_fixed_sharpness=1",), "history measures"),
        (("rules.min_fixed_sharpness=0", "select.where=noise > 0"), "history measures"),
        (("iqa.metric=clipiqa",), "clipiqa score"),
        (("select.forbid={suite}",), "comparison with {suite} (firewall)"),
    ],
)
def test_a_measure_that_is_missing_is_named_and_counts_are_at_least(
    plain: Path, settings: tuple[str, ...], measure: str
) -> None:
    run, before, suite = Run(plain), files_of(plain), plain.parent / "suite"
    settings, measure = tuple(one.format(suite=suite) for one in settings), measure.format(suite=suite)
    loose = {"rules": {"min_laplacian_variance": 0}} if measure == "niqe score" else settings
    with pytest.raises(ConfigError, match=r"ha(ve|s) no ") as error:
        run.select(loose)
    assert f" no {measure}: `lucidflux-data select {plain}`" in str(error.value)
    tried = run.what_if(loose)
    assert tried["then"] is None
    assert tried["scores_to_compute"] + tried["measures_to_take"] > 0
    assert files_of(plain) == before
    if "forbid" not in str(loose) and "clipiqa" not in str(loose):
        asked = ["rules.min_laplacian_variance=0"] if measure == "niqe score" else list(settings)
        assert tried["kept"] <= select(plain, asked)[1]["kept"]


def test_what_is_kept_by_hand_needs_a_measure_as_the_command_takes_it(plain: Path, small: Path, tmp_path: Path) -> None:
    run, folder = tmp_path / "run", Folder(str(tmp_path / "run"))
    shutil.copytree(plain, run)
    base = FilterConfig.model_validate(runs.read_run(folder)["config"])
    near = make_config(settings=["select.near_duplicates=16"], base=base)
    job.select(folder, near, Here(), QUIET)
    key = hashlib.sha256(
        (small / "<img src=x onerror=alert(1)>.png").read_bytes()
    ).hexdigest()  # too blurry: no history
    (tmp_path / "keep.txt").write_text(key)
    job.include(folder, [str(tmp_path / "keep.txt")], near, Here(), QUIET)
    with pytest.raises(ConfigError, match=r"1 image of .* has no history measures"):
        Run(run).select()
    tried = Run(run).what_if()
    assert (tried["then"], tried["kept"], tried["measures_to_take"]) == (None, 0, 1)
    job.select(folder, near, Here(), QUIET)
    assert Run(run).select().ledger().equals(pq.read_table(run / "selected.parquet"))
    assert Run(run).what_if()["then"] == Run(run).counts()


def test_a_kind_of_frame_that_is_not_installed_is_a_sentence(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, kind, None)
        with pytest.raises(ConfigError, match=f"^{kind} is not installed: pip install {kind}$"):
            Run(plain).ledger(kind)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda run: run.select(topk=3), "did you mean top_k"),
        (lambda run: run.select("rules.min_sde=3"), "did you mean rules.min_side"),
        (lambda run: run.select(top_k=3, top_fraction=0.2), "exclude each other"),
        (lambda run: run.select(where="lumens > 3"), "lumens"),
        (lambda run: run.select(join="none.parquet", where="width > 3"), "none.parquet is not there"),
        (lambda run: run.select(opt_out=3), "opt_out is a name, or a list of names, not 3"),
        (lambda run: run.select({"decode": {"max_pixels": 10_000}}), "change the scores"),
        (lambda run: run.near("nique", 5), "nique"),
        (lambda run: run.near("format", 5), "holds string, no numbers"),
        (lambda run: run.near("width", 5, count=0), "a count from 1 on"),
        (lambda run: run.near("width", "wide"), "near takes a number, not 'wide'"),
        (lambda run: run.images("0123456789abcdef0123"), "is the key of no candidate"),
        (lambda run: run.explain("nobody.jpg"), "nobody.jpg is no uri"),
        (lambda run: run.ledger("panda"), "did you mean pandas"),
        (lambda run: run.ledger(columns=["keys"]), "no column 'keys'"),
    ],
)
def test_what_goes_wrong_is_a_sentence_of_ours(plain: Path, ask: Callable[[Run], object], told: str) -> None:
    with pytest.raises(LucidFluxError, match=re.escape(told)) as error:
        ask(Run(plain))
    assert "\n" not in str(error.value)


def test_suites_are_those_that_the_command_compares_with(measured: Path, tmp_path: Path) -> None:
    home, run = measured.parent, tmp_path / "run"
    shutil.copytree(measured, run)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copyfile(home / "photos" / "06.jpg", other / "06.jpg")
    base = FilterConfig.model_validate(runs.read_run(Folder(str(run)))["config"])
    for forbid in ([other], [home / "suite", other]):
        config = make_config(settings=option_settings({"forbid": forbid}), base=base)
        job.select(Folder(str(run)), config, Here(), QUIET)
    for forbid in ([home / "suite"], [other], [other, home / "suite"], []):
        ledger, counts = select(run, option_settings({"forbid": forbid}))
        assert Run(run).select(forbid=forbid).ledger().equals(ledger)
        assert counts["rejected"].get("benchmark_leak", 0) == len(forbid)
    absent = ["select.forbid_missing=warn", f"select.forbid={other},nowhere.parquet"]
    assert Run(run).select(absent).ledger().equals(select(run, absent)[0])
    with pytest.raises(ConfigError, match=r"nowhere.parquet is neither a folder nor a fingerprint file nor a suite"):
        Run(run).select(forbid=["nowhere.parquet"])
    shutil.copyfile(home / "photos" / "07.jpg", other / "07.jpg")
    with pytest.raises(ConfigError, match=re.escape(f"have no comparison with {other} (firewall)")):
        Run(run).select(forbid=other)
    shutil.rmtree(other)  # what the run took of it stands in
    ledger, counts = select(run, option_settings({"forbid": other}))
    assert Run(run).select(forbid=other).ledger().equals(ledger)
    assert counts["rejected"]["benchmark_leak"] == 1


def test_save_writes_the_run_that_the_command_writes(measured: Path, tmp_path: Path, data_command: Callable) -> None:
    out = measured.parent / "out.txt"
    options = {"top_k": 3, "min_side": 150, "opt_out": out, "where": "noise > 0"}
    saved = Run(Run(measured).select(**options).save(tmp_path / "saved"))
    asked = ["--top-k", 3, "--min-side", 150, "--opt-out", out, "--where", "noise > 0", "--executor", "local"]
    done = data_command("select", measured, "--out", tmp_path / "asked", *asked, "--json")
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "saved") == files_of(tmp_path / "asked")
    assert saved.counts()["kept"] == json.loads(done.stdout)["kept"] == 3
    again = saved.select(top_k=2)
    assert again.keys == Run(measured).select(**options | {"top_k": 2}).keys
    assert again.ledger().equals(select(tmp_path / "saved", option_settings({"top_k": 2}))[0])
    with pytest.raises(ConfigError, match="is not empty: a selection is saved into a new folder"):
        Run(measured).select(**options).save(tmp_path / "saved")


def test_the_ledger_is_the_file_in_any_kind_of_frame(plain: Path) -> None:
    run, table = Run(plain), pq.read_table(plain / "selected.parquet")
    assert run.ledger().equals(table)
    assert run.ledger("pandas").to_dict("list")["uri"] == table["uri"].to_pylist()
    assert run.ledger("polars", ["key", "keep"]).rows() == list(
        zip(table["key"].to_pylist(), table["keep"].to_pylist(), strict=True)
    )
    counts = run.counts()
    assert counts["kept"] == sum(table["keep"].to_pylist())
    assert counts["candidates"] == 16


def test_what_is_near_is_nearest_on_both_sides(measured: Path) -> None:
    table = pq.read_table(measured / "selected.parquet")
    values = sorted(value for value in table["niqe"].to_pylist() if value is not None)
    middle = (values[4] + values[5]) / 2
    sheet = Run(measured).near("niqe", middle, count=4)
    assert [row["value"] for row in sheet] == values[3:7]
    keys = {row["key"]: row["niqe"] for row in table.to_pylist()}
    assert [keys[key] for key in sheet.keys] == values[3:7]
    sides = [row["value"] for row in Run(measured).near("min_side", np.int64(150), count=14)]
    assert sides == [140.0, *[160.0] * 12, 240.0]
    noise = pq.read_table(sorted((measured / "scores" / "history").iterdir()))
    by_uri = dict(zip(noise["uri"].to_pylist(), noise["noise"].to_pylist(), strict=True))
    assert all(row["value"] == by_uri[row["uri"]] for row in Run(measured).near("noise", 1.0))
    lonely = Run(measured).near("laplacian_variance", np.float32(1e7))
    assert len(lonely) == 0
    assert lonely.note.startswith("none within a factor of 1.5 of it; the nearest is ")


def test_images_are_the_pixels_of_the_files(plain: Path, small: Path) -> None:
    table = Run(plain).ledger(columns=["key", "source_key"]).to_pylist()
    keys = {row["source_key"]: row["key"] for row in table}
    (png, jpg) = Run(plain).images([keys["flipped.png"], keys["00.jpg"]])
    assert np.array_equal(png, np.asarray(Image.open(small / "flipped.png").convert("RGB")))
    assert np.array_equal(jpg, decode((small / "00.jpg").read_bytes()))
    with pytest.raises(InputError, match=r"broken.jpg cannot be used"):
        Run(plain).images(keys["broken.jpg"])


def test_an_image_that_is_gone_has_no_picture_and_no_pixels(plain: Path, small: Path) -> None:
    sheet = Run(plain).near("width", 196, count=2)
    assert sheet._repr_html_().count("data:image/jpeg") == 2
    (small / "smaller.png").rename(small.parent / "aside.png")
    try:
        page = sheet._repr_html_()
        assert (page.count("data:image/jpeg"), page.count("no picture")) == (1, 1)
        with pytest.raises(InputError, match=r"smaller.png cannot be used: the file is listed but not there"):
            Run(plain).images(sheet.keys)
    finally:
        (small.parent / "aside.png").rename(small / "smaller.png")


def test_a_notebook_shows_hostile_names_as_text(measured: Path, small: Path) -> None:
    run = Run(measured)
    whole = run.select(top_k=2)
    hostile = "<img src=x onerror=alert(1)>.png"
    shown = [run, whole, run.near("laplacian_variance", 100, 15), run.explain(hostile)]
    pages = [one._repr_html_() for one in shown]
    assert all("<img src=x" not in page for page in pages)
    assert any("&lt;img src=x onerror=alert(1)&gt;.png" in page for page in pages)
    assert all("http://" not in page and "https://" not in page and len(page) < 80_000 for page in pages)
    assert f'<td class="n">{run.counts()["kept"]}</td>' in pages[0]
    assert "cut.top_k" in pages[1]
    assert "data:image/jpeg;base64," in pages[0]
    assert "min_laplacian_variance" in pages[3]


def test_a_run_that_is_not_selected_or_left_half_way_says_so(small: Path, plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "run")
    (tmp_path / "run" / "selected.parquet").unlink()
    assert "was scored but not selected" in Run(tmp_path / "run")._repr_html_()
    assert Run(tmp_path / "run").select().counts() == Run(plain).counts()
    (tmp_path / "run" / "journal.json").write_text("{}")
    with pytest.raises(InputError, match="was left while its files changed"):
        Run(tmp_path / "run")
    with pytest.raises(InputError, match="is not a run folder"):
        Run(small)
