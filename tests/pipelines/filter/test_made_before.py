"""A run and pairs made by version 0.1.0 are opened, resumed, packed and verified; new settings lock nobody out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import Field

from lucidflux_data.config import Section, deciding_values, digest, since
from lucidflux_data.pairs.config import PairsConfig, deciding
from lucidflux_data.pairs.samples import samples_of_index
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.selection.run import make_run
from lucidflux_data.storage.folder import Folder
from tests.support.paths import DATA

PLACE = Path(os.sep, "var", "tmp", "lucidflux-0.1.0")  # where they were made: tables name their sources by absolute uri
RULES = ("--set", "rules.min_laplacian_variance=20", "--set", "rules.max_flat_fraction=1")


@pytest.fixture
def made_before() -> Iterator[Path]:
    shutil.rmtree(PLACE, ignore_errors=True)
    with tarfile.open(DATA / "made_by_0_1_0.tar.xz") as tar:
        tar.extractall(PLACE.parent, filter="data")
    yield PLACE
    shutil.rmtree(PLACE)


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file that is a result: no events, no report, no run.json."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    kept = {name: path for name, path in files.items() if not name.startswith(("events", "report", "run.json"))}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in kept.items()}


def test_digests_are_those_of_before(made_before: Path) -> None:
    run = json.loads((made_before / "run" / "run.json").read_text())
    config = FilterConfig.model_validate(run["config"])
    assert make_run(config, run["listed"], run["preset"])["digests"] == run["digests"]
    pairs = json.loads((made_before / "pairs" / "run.json").read_text())
    asked = {name: pairs[name] for name in ("sources", "limit", "backend")}
    again = deciding(PairsConfig.model_validate(pairs["config"]))
    assert pairs["digests"]["pairs"] == digest({"asked": asked, "config": again})


def test_a_run_is_resumed_packed_and_verified(made_before: Path, data_command) -> None:
    run = made_before / "run"
    before = contents(run)
    local = ("--executor", "local", "--num-cpus", 1)
    resumed = data_command("filter", made_before / "photos", "--preset", "demo", "--out", run, *RULES, *local)
    assert resumed.returncode == 0, resumed.stderr
    assert contents(run) == before
    for command in (("select", run, *local), ("pack", run, *local), ("verify", run, "--deep", *local)):
        done = data_command(*command)
        assert done.returncode == 0, done.stderr
    assert contents(run) == before


def test_pairs_are_resumed_and_verified(made_before: Path, data_command) -> None:
    run, pairs = made_before / "run", made_before / "pairs"
    before = contents(pairs)
    (pairs / "manifest.json").unlink()
    local = ("--executor", "local", "--num-cpus", 1)
    again = data_command("synthesize", run, "--out", pairs, "--size", 96, "--variants", 1, *local)
    assert again.returncode == 0, again.stderr
    assert contents(pairs) == before
    assert data_command("verify", pairs, "--deep", *local).returncode == 0
    key = next(iter(samples_of_index(Folder(pairs), "pairs-000000.tar")))
    replayed = data_command("replay", pairs, key, "--out", made_before / "again")
    assert "made by decoder 1" in replayed.stdout + replayed.stderr


class Before(Section):
    limit: int = 3


class Now(Before):
    added: float = Field(1.5, json_schema_extra=since("0.2.0"))
    also: tuple[int, ...] = Field((), json_schema_extra=since("0.2.0"))


class Outer(Section):
    inner: Before = Now()


def test_a_new_setting_is_in_no_digest_until_it_is_used() -> None:
    assert deciding_values(Now()) == deciding_values(Before()) == {"limit": 3}
    assert deciding_values(Now(limit=4, added=2)) == {"limit": 4, "added": 2.0}
    assert deciding_values(Outer()) == {"inner": {"limit": 3}}
    assert make_config().pack_part() == {"shards": deciding_values(make_config().shards)}
