"""What users feed a filter by mistake: each case has its reason or its sentence, and nothing is lost."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import cli

LOCAL = ["--executor", "local", "--num-cpus", "2", "--iqa", "none"]
LOOSE = [f"--set=rules.{rule}" for rule in ("min_laplacian_variance=0", "max_flat_fraction=1")]


def rows_of(run: Path) -> dict[str, dict]:
    return {row["source_key"]: row for row in pq.read_table(run / "selected.parquet").to_pylist()}


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    import skimage.data

    return Image.fromarray(skimage.data.chelsea())


@pytest.fixture(scope="module")
def odd_folder(photo: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything, each under the name of its case."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "a folder named x.jpg").mkdir()
    photo.resize((200, 130)).save(folder / "a folder named x.jpg" / "inside.png")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    (folder / "dangling.jpg").symlink_to(folder / "gone.jpg")
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG")
    (folder / "cut.jpg").write_bytes(buffer.getvalue()[:-2000])
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.quantize(32).save(folder / "palette.png")
    photo.convert("L").save(folder / "grey.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    photo.save(folder / "turned.jpg", exif=turned.tobytes())
    with_alpha = photo.copy()
    with_alpha.putalpha(128)
    with_alpha.save(folder / "alpha.png")
    photo.save(folder / "animated.gif", save_all=True, append_images=[photo.rotate(90, expand=False)])
    deep = np.asarray(photo).astype(np.uint16) * 257
    cv2.imwrite(str(folder / "sixteen.png"), deep[..., ::-1])
    photo.rotate(1).save(folder / "v1.2 final (copy).jpeg.png")
    photo.rotate(2).save(folder / "Frühling – 春.png")
    photo.rotate(2).save(folder / "twin.png")
    photo.rotate(3).save(folder / "UPPER.PNG")
    return folder


@pytest.fixture(scope="module")
def odd_run(odd_folder: Path, tmp_path_factory: pytest.TempPathFactory, data_command) -> Path:
    run = tmp_path_factory.mktemp("odd-run") / "run"
    done = data_command("filter", odd_folder, "--out", run, *LOCAL, *LOOSE)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return run


def test_every_odd_file_has_its_reason_or_its_flag(odd_run: Path) -> None:
    rows = rows_of(odd_run)
    reasons = {
        "empty.jpg": "not_an_image",
        "text.png": "not_an_image",
        "dangling.jpg": "missing",
        "cut.jpg": "truncated",
        "twin.png": "duplicate",
    }
    assert {name: row["reason"] for name, row in rows.items() if not row["keep"]} == reasons
    flags = {
        "cmyk.jpg": "cmyk",
        "palette.png": "palette",
        "grey.png": "grey",
        "turned.jpg": "orientation",
        "alpha.png": "alpha",
        "animated.gif": "animated,palette",
        "sixteen.png": "sixteen_bit",
    }
    assert {name: rows[name]["flags"] for name in flags} == flags
    assert (rows["turned.jpg"]["width"], rows["turned.jpg"]["height"]) == (300, 451), "upright"
    assert {"a folder named x.jpg/inside.png", "v1.2 final (copy).jpeg.png", "Frühling – 春.png", "UPPER.PNG"} <= {
        name for name, row in rows.items() if row["keep"]
    }


def test_odd_names_come_back_from_the_shards(odd_run: Path, odd_folder: Path) -> None:
    import webdataset

    urls = str(odd_run / "shards" / json.loads((odd_run / "manifest.json").read_text())["urls"])
    found = 0
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        about = json.loads(sample["json"])
        (extension,) = set(sample) - {"__key__", "__url__", "__local_path__", "json"}
        assert sample[extension] == (odd_folder / about["source_key"]).read_bytes()
        found += 1
    assert found == sum(row["keep"] for row in rows_of(odd_run).values())


def test_normalized_shards_show_a_stock_reader_our_pixels(odd_run: Path, tmp_path: Path, data_command) -> None:
    from lucidflux_data import decode

    run = tmp_path / "run"
    shutil.copytree(odd_run, run)
    assert data_command("pack", run, "--normalize", *LOCAL[:4]).returncode == 0
    keys = {row["key"]: Path(row["uri"].removeprefix("file://")) for row in rows_of(run).values() if row["keep"]}
    seen = 0
    for path in (run / "shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                key, extension = member.name.split(".", 1)
                if extension != "json":
                    stock = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
                    assert np.array_equal(np.asarray(stock), decode(keys[key].read_bytes())), keys[key].name
                    seen += 1
    assert seen == len(keys)


def test_a_tar_is_a_source_with_names_and_side_data(odd_folder: Path, tmp_path: Path, data_command) -> None:
    tar_path = tmp_path / "photos-0.tar"
    with tarfile.open(tar_path, "w") as tar:
        for stem, name in (("one", "palette.png"), ("two", "UPPER.PNG")):
            tar.add(odd_folder / name, f"album/{stem}.png")
            side = json.dumps({"licence": "CC0", "stem": stem}).encode()
            info = tarfile.TarInfo(f"album/{stem}.json")
            info.size = len(side)
            tar.addfile(info, io.BytesIO(side))
        tar.add(odd_folder / "text.png", "album/readme.txt")
    run = tmp_path / "run"
    done = data_command("filter", tar_path, "--out", run, *LOCAL, *LOOSE, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["candidates"], summary["kept"], summary["ignored"]) == (2, 2, 1)
    (shard,) = (run / "shards").glob("*.tar")
    with tarfile.open(shard) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    sides = [json.loads(data) for name, data in members.items() if name.endswith(".json")]
    assert {row["source_key"]: row["side"]["stem"] for row in sides} == {"album/one.png": "one", "album/two.png": "two"}
    assert {(odd_folder / name).read_bytes() for name in ("palette.png", "UPPER.PNG")} <= set(members.values())
    torn = tmp_path / "torn.tar"
    torn.write_bytes(tar_path.read_bytes()[: tar_path.stat().st_size // 2])
    done = data_command("filter", torn, "--out", tmp_path / "torn", *LOCAL, *LOOSE)
    assert done.returncode == 0
    assert "damaged or breaks off" in done.stderr


def test_a_full_disk_is_one_sentence_and_resumes(odd_folder: Path, odd_run: Path, tmp_path: Path, data_command) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("a disk that fills needs the right to mount one")
    try:
        done = data_command("filter", odd_folder, "--out", disk / "run", *LOCAL, *LOOSE)
        assert done.returncode == 5
        assert "no space left" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (disk / "run" / "manifest.json").exists()
        assert subprocess.run(["mount", "-o", "remount,size=40m", disk]).returncode == 0
        done = data_command("filter", odd_folder, "--out", disk / "run", *LOCAL, *LOOSE)
        assert done.returncode == 0, done.stderr
        for name in ("selected.parquet", "manifest.json", "report.html", "shards/hq-000000.tar"):
            assert (disk / "run" / name).read_bytes() == (odd_run / name).read_bytes()
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="nothing is unwritable or unreadable to others here")
def test_a_read_only_place_is_one_sentence(odd_folder: Path, tmp_path: Path, data_command) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a read-only disk needs the right to mount one")
    try:
        done = data_command("filter", odd_folder, "--out", disk / "run", *LOCAL)
        assert done.returncode == 5
        assert "cannot be written to" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_source_that_changes_between_score_and_pack_is_named(
    photo: Image.Image, tmp_path: Path, data_command
) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    photo.save(source / "one.png")
    run = tmp_path / "run"
    assert data_command("score", source, "--out", run, *LOCAL, *LOOSE).returncode == 0
    assert data_command("select", run, *LOCAL, *LOOSE).returncode == 0
    photo.rotate(5).save(source / "one.png")
    done = data_command("pack", run, *LOCAL[:4])
    assert done.returncode == 3
    assert "has changed since it was scored" in done.stderr
    assert not (run / "manifest.json").exists()


def test_more_failures_than_allowed_finish_and_say_so(odd_folder: Path, tmp_path: Path, data_command) -> None:
    for command in ("score", "filter"):
        done = data_command(command, odd_folder, "--out", tmp_path / "run", *LOCAL, *LOOSE, "--max-failed", "0.1")
        assert done.returncode == 4
        assert "failed" in done.stderr
    assert (tmp_path / "run" / "manifest.json").exists()


def test_ctrl_c_while_listing_exits_as_resumable(tmp_path: Path) -> None:
    """A server that takes the question and does not answer keeps the listing waiting."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        source = f"http://127.0.0.1:{server.getsockname()[1]}/photos"
        program = Path(sys.executable).with_name("lucidflux-data")
        command = [program, "filter", source, "--out", tmp_path / "run", *LOCAL]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        asking, _ = server.accept()
        with asking:
            assert asking.recv(4).startswith(b"GET")
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 5
    assert process.stderr.read() == "interrupted: repeat the command to resume\n"


def test_a_run_without_a_ledger_and_a_folder_of_another_job_are_one_sentence(
    odd_folder: Path, tmp_path: Path, data_command, monkeypatch, capsys
) -> None:
    def call(*arguments: object) -> tuple[int, str]:
        """The command's own entry point, in this process."""
        monkeypatch.setattr(sys, "argv", ["lucidflux-data", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            cli.data_main()
        return int(leaving.value.code or 0), capsys.readouterr().err

    scored, other = tmp_path / "scored", tmp_path / "other"
    assert data_command("score", odd_folder, "--out", scored, *LOCAL, *LOOSE).returncode == 0
    other.mkdir()
    (other / "run.json").write_text('{"kind": "pairs", "schema_version": 1}')
    code, error = call("forget", scored, "0" * 64)
    assert (code, "lucidflux-data select" in error) == (3, True)
    for command in (("pack",), ("explain", "x.jpg"), ("report",), ("diff", scored)):
        for folder, told in ((scored, "lucidflux-data select"), (other, "it holds pairs")):
            code, error = call(command[0], folder, *command[1:])
            assert (code, told in error) == (3, True), (command, error)
    for command in (("select",), ("what-if",), ("retry", "--status", "missing")):
        assert call(command[0], other, *command[1:])[0] == 3
    code, error = call("filter", odd_folder, "--out", other, *LOCAL, *LOOSE)
    assert (code, "it holds pairs" in error) == (3, True)
