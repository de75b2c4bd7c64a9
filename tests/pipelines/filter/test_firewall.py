"""A set is called checked against a suite where each of its images was compared, and nowhere else.

The suites hold copies of candidates, byte for byte, so which candidates leak is known from the names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.audit.report import make_report
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.images import decode, luma
from lucidflux_data.measures.fingerprints import fingerprint_file
from lucidflux_data.pairs.card import card_text, make_card
from lucidflux_data.selection import decision
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.selection.run import read_run
from lucidflux_data.storage.folder import Folder
from pipelines.execution.progress import Progress
from pipelines.filter import job
from pipelines.filter.firewall import LEAK_SCHEMA
from pipelines.filter.forbidden import make_fingerprints
from pipelines.filter.repair import verify_run
from tests.support.here import QUIET, Here, run_filter, run_synthesize
from tests.support.run_files import rewrite_run

ALL = ["rules.min_side=64", "rules.min_laplacian_variance=0", "rules.max_laplacian_variance=999999"]
ALL += ["rules.max_flat_fraction=1", "iqa.metric=none"]
NAMES = ("astronaut", "chelsea", "coffee", "rocket")


class Killed(BaseException):
    """Not to be caught, as SIGKILL is not."""


@contextlib.contextmanager
def killed_after(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[list[str]]:
    """Ends whatever publishes, right after the publish of this number. Gives the names published so far."""
    names: list[str] = []
    publish = Folder.publish

    def counted(self: Folder, name: str, content: Any) -> None:
        publish(self, name, content)
        names.append(name)
        if len(names) == number:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "publish", counted)
        with contextlib.suppress(Killed):
            yield names


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for path in photo_paths:
        if path.stem in NAMES:
            cut = cv2.imread(str(path))[60:260, 100:300]
            (folder / f"{path.stem}.jpg").write_bytes(cv2.imencode(".jpg", cut)[1].tobytes())
    return folder


@pytest.fixture(scope="module")
def packed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("packed") / "run"
    run_filter(photos, run, *ALL)
    return run


@pytest.fixture
def run(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(packed, tmp_path / "run"))


def select(run: Path, *forbid: object, settings: tuple[str, ...] = ()) -> dict[str, Any]:
    base = FilterConfig.model_validate(read_run(Folder(run))["config"])
    asked = [f"select.forbid={','.join(map(str, forbid))}", "select.forbid_missing=warn", *settings]
    config = make_config(settings=asked, base=base)
    return job.select(Folder(run), config, Here(), Progress())


def pack(run: Path) -> dict[str, Any]:
    """The manifest's card."""
    config = FilterConfig.model_validate(read_run(Folder(run))["config"])
    return job.pack(Folder(run), config, Here(), QUIET)["firewall"]


def put(folder: Path, photos: Path, *names: str) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in names:
        shutil.copy(photos / f"{name}.jpg", folder)
    return folder


def leaks(run: Path) -> set[str]:
    rows = pq.read_table(run / "selected.parquet").to_pylist()
    return {Path(row["source_key"]).stem for row in rows if row["reason"] == "benchmark_leak"}


def tree(run: Path) -> dict[str, bytes]:
    files = [path for path in run.rglob("*") if path.is_file() and "events" not in path.parts]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def kept_copy(run: Path, item: object) -> Path:
    return run / "firewall" / f"{hashlib.sha256(str(item).encode()).hexdigest()[:12]}.parquet"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_suite_that_comes_later_is_measured_then(run: Path, photos: Path, tmp_path: Path, capsys) -> None:
    suite = tmp_path / "suite"
    told = select(run, suite)
    assert f"{suite} is neither a folder" in (said := capsys.readouterr().err)
    assert "NOT CHECKED" in said
    assert told["benchmarks"] == [f"NOT CHECKED: {suite}"]
    nothing = {"measure": None, "checked": {}, "partly_checked": {}, "not_checked": [str(suite)]}
    assert pack(run) == nothing
    assert [path.name for path in (run / "scores").iterdir()] == ["basic"], "nothing was compared"
    assert job.summary(Folder(run))["benchmarks"] == [f"NOT CHECKED: {suite}"]
    assert f'<p class="warning">NOT CHECKED: {suite}</p>' in (run / "report.html").read_text()
    label = f"NOT checked against {suite}"
    assert read_run(Folder(run))["label"].endswith(label)
    assert label in job.summary(Folder(run))["label"]
    digest = read_run(Folder(run))["digests"]["select"]

    put(suite, photos, "coffee")
    told = select(run, suite)
    assert leaks(run) == {"coffee"}
    card = pack(run)
    assert card["checked"] == {str(suite): sha256(kept_copy(run, suite))}
    assert (card["partly_checked"], card["not_checked"]) == ({}, [])
    assert told["benchmarks"] == [f"checked against {suite} ({sha256(kept_copy(run, suite))[:12]})"]
    measured = pq.read_table(run / "scores" / card["measure"]).to_pylist()
    assert {row["leak"] for row in measured} == {None, "suite/coffee.jpg"}
    assert "NOT CHECKED" not in (run / "report.html").read_text()
    assert read_run(Folder(run))["digests"]["select"] != digest
    before = tree(run)
    capsys.readouterr()
    assert select(run, suite) == told
    assert pack(run) == card
    assert tree(run) == before, "repeated, it changes nothing"
    assert capsys.readouterr().err == ""


def test_other_images_under_the_same_name_are_another_measure(run: Path, photos: Path, tmp_path: Path) -> None:
    suite, found = tmp_path / "suite", []
    for name in ("coffee", "rocket", "coffee"):
        select(run, put(suite, photos, name))
        assert leaks(run) == {name}
        found.append((pack(run), read_run(Folder(run))["digests"]["select"], tree(run)))
    assert found[0][0]["measure"] != found[1][0]["measure"]
    assert found[0][1] != found[1][1]
    assert found[0][:2] == found[2][:2]
    added = found[2][2].keys() - found[0][2].keys()
    assert added == {f"scores/{found[1][0]['measure']}/unit-000000.parquet"}
    assert found[0][2] == {name: data for name, data in found[2][2].items() if name not in added}
    file = tmp_path / "suite.parquet"
    for name in ("coffee", "rocket"):
        file.write_bytes(make_fingerprints(str(put(suite, photos, name)), "X", 10**8))
        select(run, file)
        assert leaks(run) == {name}
        assert pack(run)["checked"] == {str(file): sha256(file)}


def test_one_renamed_image_or_one_more_is_other_content(run: Path, photos: Path, tmp_path: Path) -> None:
    suite = put(tmp_path / "suite", photos, "coffee")
    select(run, suite)
    first = pack(run)["measure"]
    (suite / "coffee.jpg").rename(suite / "other.jpg")
    select(run, suite)
    row = next(r for r in pq.read_table(run / "selected.parquet").to_pylist() if r["reason"] == "benchmark_leak")
    assert row["leak"] == "suite/other.jpg"
    shutil.copy(photos / "rocket.jpg", suite)
    select(run, suite)
    assert leaks(run) == {"coffee", "rocket"}
    assert len({first, pack(run)["measure"]}) == 2


@pytest.mark.parametrize(("content", "images", "of"), [
    ([], 0, 0), (["text.png"], 0, 1), (["text.png", "cut.jpg"], 0, 2), (["coffee.jpg", "text.png", "cut.jpg"], 1, 3),
    (["coffee.jpg", "rocket.jpg", "gone.png"], 2, 3), (["coffee.jpg", "readme.txt"], 1, 1),
])  # fmt: skip
def test_a_suite_is_checked_where_every_image_was_read(
    content: list[str], images: int, of: int, run: Path, photos: Path, tmp_path: Path, capsys
) -> None:
    """`gone`: a link to what is not there. A file that is no image by its name is none of the suite's."""
    suite, whole = tmp_path / "suite", put(tmp_path / "whole", photos, "astronaut")
    suite.mkdir()
    for name in content:
        if name == "gone.png":
            os.symlink(tmp_path / "nowhere.png", suite / name)
        elif (photos / name).exists():
            shutil.copy(photos / name, suite)
        else:
            (suite / name).write_bytes((photos / "rocket.jpg").read_bytes()[:200] if name == "cut.jpg" else b"no image")
    told = select(run, suite, whole)
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    card = pack(run)
    assert card["checked"].keys() == ({str(suite), str(whole)} if images == of > 0 else {str(whole)})
    assert card["not_checked"] == ([] if images == of > 0 else [str(suite)])
    assert leaks(run) == {"astronaut", *(Path(name).stem for name in content if (photos / name).exists())}
    line = f"NOT CHECKED: {suite}"
    if 0 < images < of:
        line = f"NOT CHECKED as a whole: {suite} ({images} of {of} images)"
        assert card["partly_checked"] == {
            str(suite): {"sha256": sha256(kept_copy(run, suite)), "images": images, "of": of}
        }
    else:
        assert card["partly_checked"] == {}
    whole_line = f"checked against {whole} ({card['checked'][str(whole)][:12]})"
    assert told["benchmarks"] == job.summary(Folder(run))["benchmarks"]
    assert set(told["benchmarks"]) - {whole_line} == ({line} if images != of or not of else set(told["benchmarks"][:1]))
    assert len(warned) == (1 if line in told["benchmarks"] else 0)
    assert all(str(suite) in text and "NOT CHECKED" in text for text in warned)
    assert (f'<p class="warning">{line}</p>' in (run / "report.html").read_text()) == (line in told["benchmarks"])


@pytest.mark.parametrize("kind", ["nowhere", "empty folder", "no image", "empty file", "name"])
def test_a_missing_suite_ends_the_selection(kind: str, run: Path, photos: Path, tmp_path: Path) -> None:
    suite = str(tmp_path / "suite") if kind != "name" else "RealSR"
    if kind in ("empty folder", "no image"):
        Path(suite).mkdir()
    if kind == "no image":
        (Path(suite) / "x.jpg").write_bytes(b"no image")
    if kind == "empty file":
        suite += ".parquet"
        Path(suite).write_bytes(fingerprint_file([], "S"))
    before = tree(run)
    for _ in range(2):
        with pytest.raises(ConfigError, match=f"{suite} .*--forbid-missing warn"):
            select(run, suite, put(tmp_path / "whole", photos, "coffee"), settings=("select.forbid_missing=stop",))
        left = {name: data for name, data in tree(run).items() if not name.startswith("firewall/")}
        assert left == before, "the ledger in force stays"
    select(run, suite, tmp_path / "whole")
    assert leaks(run) == {"coffee"}
    assert f"NOT checked against {suite}" in read_run(Folder(run))["label"]
    digests = read_run(Folder(run))["digests"]
    put(tmp_path / "later", photos, "rocket")
    if kind != "name" and kind != "empty file":
        shutil.rmtree(suite, ignore_errors=True)
        shutil.copytree(tmp_path / "later", suite)
        select(run, suite, tmp_path / "whole", settings=("select.forbid_missing=stop",))
        assert "NOT checked" not in read_run(Folder(run))["label"]
        assert read_run(Folder(run))["digests"]["select"] != digests["select"], "it was compared with more"


def test_a_report_before_the_pack_names_what_was_not_checked(run: Path, tmp_path: Path) -> None:
    select(run, tmp_path / "suite")
    (run / "manifest.json").unlink()
    assert f'<p class="warning">NOT CHECKED: {tmp_path / "suite"}</p>' in make_report(Folder(run)).decode()


def test_filter_finds_a_missing_suite_before_it_measures(photos: Path, tmp_path: Path, data_command) -> None:
    asked = ("filter", photos, "--out", tmp_path / "new", "--executor", "local", "--iqa", "none")
    done = data_command(*asked, "--forbid", tmp_path / "suite")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert f"{tmp_path / 'suite'} is neither a folder nor a fingerprint file" in done.stderr
    assert not (tmp_path / "new").exists()


def test_pairs_are_checked_where_every_source_is(run: Path, photos: Path, tmp_path: Path) -> None:
    suite = put(tmp_path / "suite", photos, "coffee")
    select(run, suite)
    pack(run)
    folder = tmp_path / "pairs"
    run_synthesize(run, folder, "degrade.size=96", "variants=1")
    card = make_card(Folder(folder), None)
    assert (card["checked_against"], card["not_checked_against"]) == ([str(suite)], [])
    about = json.loads((folder / "run.json").read_text())
    about["sources"].append(f"file://{photos}")
    rewrite_run(folder, about)
    card = make_card(Folder(folder), None)
    assert (card["checked_against"], card["not_checked_against"]) == ([], [str(suite)])
    assert card["sources_not_compared"] == [f"file://{photos}"]
    assert f"NOT CHECKED: {suite}; NOT compared with any: file://{photos}" in card_text(card)


def test_a_suite_that_broke_and_is_mended(run: Path, photos: Path, tmp_path: Path) -> None:
    suite = put(tmp_path / "suite", photos, "coffee", "rocket")
    whole = (suite / "rocket.jpg").read_bytes()
    (suite / "rocket.jpg").write_bytes(b"no image")
    select(run, suite)
    assert (leaks(run), pack(run)["not_checked"]) == ({"coffee"}, [str(suite)])
    (suite / "rocket.jpg").write_bytes(whole)
    select(run, suite)
    assert (leaks(run), pack(run)["not_checked"]) == ({"coffee", "rocket"}, [])


def test_a_tar_that_breaks_off_is_no_whole_suite(run: Path, photos: Path, tmp_path: Path) -> None:
    tar = Path(shutil.make_archive(str(tmp_path / "suite"), "tar", photos))
    data = tar.read_bytes()
    tar.write_bytes(data[: data.rindex(b"rocket.jpg") + 700])
    select(run, tar)
    card = pack(run)
    assert card["checked"] == {}
    assert card["partly_checked"][str(tar)]["images"] < card["partly_checked"][str(tar)]["of"]


def test_a_suite_that_is_gone_is_stood_for_by_what_was_taken_of_it(
    run: Path, photos: Path, tmp_path: Path, capsys
) -> None:
    suite = put(tmp_path / "suite", photos, "coffee")
    select(run, suite)
    card, before = pack(run), tree(run)
    for harm in ("moved", "emptied"):
        shutil.rmtree(suite)
        if harm == "emptied":
            suite.mkdir()
        capsys.readouterr()
        select(run, suite)
        assert "the fingerprints that this run took of it before are used" in capsys.readouterr().err
        assert (leaks(run), pack(run)) == ({"coffee"}, card)
        assert tree(run) == before
        put(suite, photos, "coffee")
    kept_copy(run, suite).write_bytes(b"PAR1")
    select(run, suite)
    assert tree(run) == before, "a damaged copy is made again"
    kept_copy(run, suite).write_bytes(b"PAR1")
    shutil.rmtree(suite)
    with pytest.raises(InputError, match=f"{suite}: a fingerprint file is damaged"):
        select(run, suite)


def test_files_of_fingerprints(run: Path, photos: Path, tmp_path: Path, capsys) -> None:
    """Of no image; of all images; of a version that did not say of how many; a suite by its name."""
    data = (photos / "coffee.jpg").read_bytes()
    whole = fingerprint_file([("c", data, luma(decode(data)))], "S")
    table = pq.read_table(pa.BufferReader(whole))
    old = {key: value for key, value in table.schema.metadata.items() if key not in (b"listed", b"source")}
    known = tmp_path / "cache" / "lucidflux" / "fingerprints"
    known.mkdir(parents=True)
    (known / "RealSR.parquet").write_bytes(whole)
    (tmp_path / "none.parquet").write_bytes(fingerprint_file([], "S"))
    pq.write_table(table.replace_schema_metadata(old), tmp_path / "old.parquet")
    select(run, "RealSR", tmp_path / "none.parquet", tmp_path / "old.parquet")
    said = capsys.readouterr().err
    assert f"{tmp_path}/none.parquet has no image that can be read: NOT CHECKED" in said
    assert f"{tmp_path}/old.parquet is NOT CHECKED as a whole (1 images, its fingerprint file does not say" in said
    assert leaks(run) == {"coffee"}
    card = pack(run)
    assert card["checked"] == {"RealSR": hashlib.sha256(whole).hexdigest()}
    assert card["not_checked"] == [f"{tmp_path}/none.parquet", f"{tmp_path}/old.parquet"]
    assert card["partly_checked"][f"{tmp_path}/old.parquet"]["of"] is None


def test_a_run_of_0_1_0_counts_as_not_checked_until_it_is_selected_again(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    """As that version left it where the suite was missing at first and there later: a result without a match, taken for
    that of the suite."""
    suite = put(tmp_path / "suite", photos, "coffee")
    select(run, suite)
    pack(run)
    measured = read_run(Folder(run))["firewall"]
    shutil.rmtree(run / "scores" / json.loads((run / "manifest.json").read_text())["firewall"]["measure"])
    old = hashlib.sha256(str(suite).encode()).hexdigest()[:12]
    rows = pq.read_table(run / "scores" / "basic").select(["uri", "key"]).to_pylist()
    (run / "scores" / f"firewall-{old}").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, LEAK_SCHEMA), run / "scores" / f"firewall-{old}" / "unit-000000.parquet")
    for name in ("run.json", "manifest.json"):
        about = json.loads((run / name).read_text())
        about["firewall"] = {"checked": {str(suite): sha256(kept_copy(run, suite))}, "not_checked": []}
        if name == "run.json":
            del about["firewall"]
        about.pop("own_sha256", None)
        (run / name).write_text(json.dumps(about))
    assert f'<p class="warning">NOT CHECKED: {suite}</p>' in make_report(Folder(run)).decode()
    assert job.summary(Folder(run))["benchmarks"] == [f"NOT CHECKED: {suite}"]
    doubt, unrecorded = verify_run(Folder(run), False, False, Here(), QUIET)["warnings"]
    assert "not recorded before this version" in unrecorded
    assert f"checked against {suite}, by a version before 0.1.1" in doubt
    run_synthesize(run, tmp_path / "pairs", "degrade.size=96", "variants=1")
    info = make_card(Folder(tmp_path / "pairs"), None)
    assert (info["checked_against"], info["not_checked_against"]) == ([], [str(suite)])
    assert f"checked against: no benchmark; NOT CHECKED: {suite}" in card_text(info)
    assert pack(run)["not_checked"] == [str(suite)], "packed again without a selection"
    select(run, suite)
    assert leaks(run) == {"coffee"}
    assert pack(run)["checked"] == {str(suite): measured[str(suite)]["sha256"]}
    assert verify_run(Folder(run), False, False, Here(), QUIET)["warnings"] == []
    assert make_card(Folder(tmp_path / "pairs"), None)["checked_against"] == [str(suite)]


def test_killed_at_any_publish_nothing_is_checked_that_the_ledger_is_not(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, origin = put(tmp_path / "suite", photos, "coffee"), tmp_path / "origin"
    select(run, suite)
    of_coffee = pack(run)
    shutil.copytree(run, origin)
    put(suite, photos, "rocket")
    select(run, suite)
    of_rocket, quiet = pack(run), tree(run)
    seen = set()
    for number in range(1, 100):
        shutil.rmtree(run)
        shutil.copytree(origin, run)
        with killed_after(monkeypatch, number) as names:
            select(run, suite)
        if len(names) < number:
            break
        card = pack(run)
        if card["checked"]:
            assert (leaks(run), card) in (({"coffee"}, of_coffee), ({"rocket"}, of_rocket)), names
        seen.add(bool(card["checked"]))
        select(run, suite)
        assert pack(run) == of_rocket
        assert tree(run) == quiet
    assert seen == {True, False}
    assert number > 4


def test_a_filter_is_repeated_and_sees_what_its_suite_has_become(photos: Path, tmp_path: Path) -> None:
    suite, out = tmp_path / "suite", tmp_path / "run"
    settings = [*ALL, f"select.forbid={suite}", "select.forbid_missing=warn"]
    run_filter(photos, out, *settings)
    assert leaks(out) == set()
    put(suite, photos, "coffee")
    for _ in range(2):
        run_filter(photos, out, *settings)
        assert leaks(out) == {"coffee"}
    before = tree(out)
    run_filter(photos, out, *settings)
    assert tree(out) == before
    run_filter(photos, tmp_path / "other", *settings)
    assert sha256(out / "selected.parquet") == sha256(tmp_path / "other" / "selected.parquet")
    assert sha256(out / "manifest.json") == sha256(tmp_path / "other" / "manifest.json"), "whatever came before"


def test_expressions_see_the_comparison_in_force(run: Path, photos: Path, tmp_path: Path) -> None:
    """Whichever of the measures stands first by its name, under scores/."""
    suite = tmp_path / "suite"
    for name in ("coffee", "rocket", "astronaut", "chelsea"):
        select(run, put(suite, photos, name), settings=("select.carry=leak_bits",))
        rows = pq.read_table(run / "selected.parquet").to_pylist()
        assert {Path(row["source_key"]).stem for row in rows if row["leak_bits"] is not None} == {name}


def test_several_runs_are_compared_with_the_same_content(run: Path, photos: Path, tmp_path: Path) -> None:
    """A part that was measured against other images of the suite before is measured again."""
    suite = put(tmp_path / "suite", photos, "coffee")
    select(run, suite)
    put(suite, photos, "rocket")
    config = FilterConfig.model_validate(read_run(Folder(run))["config"])
    drawn = Folder(tmp_path / "drawn")
    decision.combine(drawn, [Folder(run)], config, "lucidflux")
    job.select(drawn, config, Here(), QUIET)
    assert leaks(Path(drawn.root)) == {"rocket"}
    assert leaks(run) == {"coffee"}
    preview = job.preview([*job.runs.parts(drawn)], config, job.firewall.measure_name(read_run(drawn)["firewall"]))
    assert preview["survivors"] == len(NAMES) - 1


def test_the_command_makes_no_file_of_nothing(photos: Path, tmp_path: Path, data_command) -> None:
    suite, file = put(tmp_path / "suite", photos, "coffee"), tmp_path / "s.parquet"
    (suite / "no.png").write_bytes(b"no image")
    done = data_command("fingerprint", suite, "--name", "S", "--out", file, "--json")
    told = f"{suite} has 2 images, 1 of them can be read: no whole suite"
    assert (done.returncode, done.stderr) == (0, f"warning: {told}\n")
    assert json.loads(done.stdout)["warnings"] == [told]
    assert {name: json.loads(done.stdout)[name] for name in ("images", "of")} == {"images": 1, "of": 2}
    said = data_command("fingerprint", suite, "--name", "S", "--out", file)
    assert f"warning: {suite} has 2 images, 1 of them can be read" in said.stderr
    (suite / "coffee.jpg").unlink()
    file.unlink()
    refused = data_command("fingerprint", suite, "--name", "S", "--out", file)
    assert refused.returncode == 3
    assert f"{suite} has no image that can be read (1 listed)" in refused.stderr
    assert not file.exists()
