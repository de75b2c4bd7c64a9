"""Selecting again: from several runs, with images kept by hand, and what the three digests allow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lucidflux_data.errors import InputError
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.selection.run import read_run
from lucidflux_data.storage.folder import Folder
from pipelines.filter import job
from tests.support.here import QUIET, Here

LOCAL = ["--executor", "local", "--num-cpus", "2"]
RULES = ["--set", "rules.min_side=64", "--top-fraction", "0.5"]
SCORE = ["--iqa", "niqe", "--set", "decode.max_pixels=100000000", *LOCAL]


@pytest.fixture(scope="module")
def halves(candidates: Path, tmp_path_factory: pytest.TempPathFactory, data_command) -> tuple[Path, Path]:
    """Two scored runs over the halves of the demo's candidates; one photo is in both, under the same bytes."""
    root = tmp_path_factory.mktemp("halves")
    photos = sorted(path for path in candidates.iterdir() if path.suffix != ".txt" and not path.is_symlink())
    for name, part in (("a", photos[::2]), ("b", photos[1::2])):
        (root / name).mkdir()
        for path in part:
            shutil.copyfile(path, root / name / path.name)
        done = data_command("score", root / name, "--out", root / f"run-{name}", *SCORE)
        assert done.returncode == 0, done.stderr
    return root / "run-a", root / "run-b"


def ledger(run: Path) -> list[dict]:
    return pq.read_table(run / "selected.parquet").to_pylist()


def decisions(run: Path) -> dict[str, tuple]:
    return {row["source_key"]: (row["keep"], row["reason"], row["rank"]) for row in ledger(run)}


def test_several_runs_select_as_one_run_over_all_sources(halves, tmp_path: Path, data_command) -> None:
    both = tmp_path / "both"
    done = data_command("select", *halves, "--out", both, *RULES, *LOCAL, "--json")
    assert done.returncode == 0, done.stderr
    sources = [run.with_name(run.name.removeprefix("run-")) for run in halves]
    whole = data_command("filter", *sources, "--out", tmp_path / "whole", *RULES, *SCORE)
    assert whole.returncode == 0, whole.stderr
    assert decisions(both) == decisions(tmp_path / "whole")
    assert json.loads(done.stdout)["candidates"] == len(ledger(both))
    assert data_command("pack", both, *LOCAL).returncode == 0
    assert data_command("verify", both, "--deep").returncode == 0
    tars = [sorted((run / "shards").glob("*.tar")) for run in (both, tmp_path / "whole")]
    assert [tar.read_bytes() for tar in tars[0]] == [tar.read_bytes() for tar in tars[1]]


def test_a_selection_of_several_needs_a_place_and_equal_measures(halves, candidates, tmp_path, data_command) -> None:
    done = data_command("select", *halves, *LOCAL)
    assert done.returncode == 2
    assert "--out" in done.stderr
    other = tmp_path / "other"
    source = halves[0].with_name("a")
    patch = ["--set", "measures.patch_px=120"]
    assert data_command("score", source, "--out", other, *SCORE, *patch).returncode == 0
    done = data_command("select", halves[1], other, "--out", tmp_path / "mixed", *LOCAL)
    assert done.returncode == 2
    assert "measured with other settings" in done.stderr
    assert not (tmp_path / "mixed").exists()


def test_included_images_stay_beside_the_rules(halves, candidates: Path, tmp_path: Path, data_command) -> None:
    """A folder (scored on the way) and a run: each image is kept whatever the rules say, unless it cannot be read."""
    curated = tmp_path / "curated"
    curated.mkdir()
    names = ("planted-too_blurry.png", "planted-too_flat.png", "planted-truncated.jpg", "astronaut.png")
    for name in names:
        shutil.copyfile(candidates / name, curated / name)
    run = tmp_path / "run"
    shutil.copytree(halves[0], run)
    done = data_command("select", run, "--include", curated, *RULES, *LOCAL)
    assert done.returncode == 0, done.stderr
    rows = ledger(run)
    mine = {row["source_key"]: row for row in rows if row["uri"].startswith(f"file://{curated}/")}
    assert {name: row["reason"] for name, row in mine.items()} == {
        "planted-too_blurry.png": "included",
        "planted-too_flat.png": "included",
        "planted-truncated.jpg": "truncated",
        "astronaut.png": "included",
    }
    twins = [row["reason"] for row in rows if row["key"] == mine["astronaut.png"]["key"]]
    assert sorted(twins) == ["duplicate"] * (len(twins) - 1) + ["included"]
    assert data_command("pack", run, *LOCAL).returncode == 0
    assert data_command("verify", run, "--deep").returncode == 0
    kept = {row["key"] for row in rows if row["keep"]}
    index = {key for path in (run / "shards").glob("*.parquet") for key in pq.read_table(path)["key"].to_pylist()}
    assert index == kept
    again = data_command("select", halves[1], "--out", tmp_path / "second", "--include", run, *RULES, *LOCAL)
    assert again.returncode == 0, again.stderr
    taken = {row["key"] for row in ledger(tmp_path / "second") if row["reason"] == "included"}
    assert taken == kept, "what the included run keeps, its own included images among them"


def test_a_list_names_candidates_of_the_run_that_stay_beside_its_rules(halves, tmp_path: Path) -> None:
    """By key, uri and sha256; of what is not there, one sentence, and nothing is included."""
    folder, list_ = Folder(str(tmp_path / "run")), tmp_path / "include.txt"
    shutil.copytree(halves[0], tmp_path / "run")
    config = make_config(
        settings=["cut.top_fraction=0.1"], base=FilterConfig.model_validate(read_run(folder)["config"])
    )
    before = job.select(folder, config, Here(), QUIET)
    out = [row for row in ledger(tmp_path / "run") if row["reason"] in ("low_iqa", "too_blurry", "too_flat")][:3]
    list_.write_text("".join(f"{row[name]}\n" for row, name in zip(out, ("key", "uri", "sha256"), strict=True)))
    job.include(folder, [str(list_)], config, Here(), QUIET)
    counts = job.select(folder, config, Here(), QUIET)
    rows = ledger(tmp_path / "run")
    assert {row["uri"] for row in rows if row["reason"] == "included"} == {row["uri"] for row in out}
    assert (counts["included"], counts["candidates"]) == (3, before["candidates"])
    summary = job.summary(folder)
    assert summary["listed"] == summary["candidates"] + summary["ignored"]
    assert "of_other_runs" not in summary.get("ignored_by", {})
    about = (tmp_path / "run" / "run.json").read_bytes()
    list_.write_text(f"{'0' * 20}\n")
    with pytest.raises(InputError, match="0000, which is no candidate"):
        job.include(folder, [str(list_)], config, Here(), QUIET)
    assert (tmp_path / "run" / "run.json").read_bytes() == about


def test_dry_runs_write_nothing(halves, tmp_path: Path, data_command) -> None:
    run = tmp_path / "run"
    shutil.copytree(halves[0], run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    plan = json.loads(data_command("select", run, *RULES, "--dry-run", "--json").stdout)
    assert plan["scores_to_compute"] == 0
    loose = ["--set", "rules.min_laplacian_variance=0", "--set", "rules.max_flat_fraction=1"]
    looser = json.loads(data_command("select", run, *RULES, *loose, "--dry-run", "--json").stdout)
    assert looser["scores_to_compute"] == looser["survivors"] - plan["survivors"] > 0
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = json.loads(data_command("select", run, *RULES, *LOCAL, "--json").stdout)
    assert (done["candidates"], done["kept"]) == (plan["candidates"], plan["kept_by_the_rules"])
    packed = json.loads(data_command("pack", run, "--dry-run", "--json").stdout)
    assert packed["samples"] == done["kept"]
    assert not (run / "shards").exists()


@pytest.mark.parametrize(
    ("setting", "score", "select", "pack"),
    [
        ("decode.max_pixels=90000000", False, True, True),
        ("measures.patch_px=120", False, True, True),
        ("rules.min_laplacian_variance=200", True, False, True),
        ("cut.top_fraction=0.25", True, False, True),
        ("iqa.metric=none", True, False, True),
        ("shards.max_samples=3", True, True, False),
    ],
)
def test_a_setting_changes_its_own_digest(setting: str, score: bool, select: bool, pack: bool) -> None:
    from lucidflux_data.selection.config import make_config
    from lucidflux_data.selection.run import make_run

    listed = {"sources": ["file:///photos"], "limit": None, "seed": None, "candidates": 1, "ignored": 0}
    one = make_run(make_config("demo"), listed, "demo")["digests"]
    other = make_run(make_config("demo", settings=[setting]), listed, "demo")["digests"]
    assert {name: one[name] == other[name] for name in one} == {"score": score, "select": select, "pack": pack}


def test_other_digests_are_refused_with_the_command_to_use(halves, tmp_path: Path, data_command) -> None:
    run, source = tmp_path / "run", halves[0].with_name("a")
    assert data_command("filter", source, "--out", run, *RULES, *SCORE).returncode == 0
    for changed, words in (
        (["--set", "measures.patch_px=120"], "another run"),
        (["--set", "rules.max_flat_fraction=0.4"], "lucidflux-data select"),
        (["--set", "shards.max_samples=2"], "lucidflux-data pack"),
        (["--limit", "3"], "another run"),
    ):
        done = data_command("filter", source, "--out", run, *RULES, *SCORE, *changed)
        assert done.returncode == 2, changed
        assert words in done.stderr
    assert data_command("filter", source, "--out", run, *RULES, *SCORE, "--num-cpus", "1").returncode == 0
    assert data_command("pack", run, "--set", "shards.max_samples=2", *LOCAL).returncode == 0
    shards = json.loads((run / "manifest.json").read_text())["shards"]
    assert all(entry["samples"] <= 2 for entry in shards)
    assert len(shards) > 1
