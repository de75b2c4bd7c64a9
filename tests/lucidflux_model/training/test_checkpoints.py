"""What a checkpoint is made of: no pickle that can call anything, and a sum of every file."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file

from lucidflux_data.errors import InputError, Interrupted, VerificationError
from lucidflux_model.training import checkpoint_files as files
from lucidflux_model.training import old_checkpoints
from lucidflux_model.training.checkpoints import PLACE, Checkpoints, latest, verify_run
from lucidflux_model.training.distributed import Runtime
from lucidflux_model.training.setup import export
from tests.support import training

ALONE = Runtime(0, 1, torch.device("cpu"))


def save_as_before(checkpoints: Checkpoints, state: dict[str, Any], progress: dict[str, Any]) -> Path:
    """torch's distributed checkpoint, as versions before wrote it."""
    path = checkpoints.folder / f"step-{progress['step']:08d}"
    path.mkdir(parents=True)
    dcp.save(state, checkpoint_id=path, no_dist=True)
    (path / "progress.json").write_text(json.dumps(progress))
    (checkpoints.folder / "latest").write_text(path.name)
    return path


@pytest.fixture(scope="module")
def three(train_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("three") / "run"
    training.run(train_pairs, out, "steps=3")
    return out


def test_a_checkpoint_of_before_is_gone_on_with_and_written_anew(
    train_pairs: Path, three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_as_before)
        training.run(train_pairs, tmp_path / "run", "steps=1", say=said.append)
    assert [line for line in said if "has no checksums" in line] == [
        "warning: step-00000001 has no checksums, an older version saved it: its files were not checked"
    ]
    assert verify_run(tmp_path / "run")["not_recorded_before_this_version"] == ["step-00000001"]
    export(tmp_path / "run", tmp_path / "before.safetensors", say=said.append)
    training.run(train_pairs, tmp_path / "run", "steps=3", say=said.append)
    assert training.differing(tmp_path / "run", three) == []
    assert files.is_of_safetensors(latest(tmp_path / "run"))
    assert not list(latest(tmp_path / "run").glob(".*"))


class Calls:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("place", ["metadata", "value"])
def test_nothing_that_a_stranger_put_into_a_checkpoint_is_called(place: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / PLACE / "step-00000001"
    path.mkdir(parents=True)
    state: dict[str, Any] = {"model": {"x": torch.arange(4.0)}, "optimizer": {"note": 1}}
    if place == "value":
        state["optimizer"]["note"] = Calls(canary)
    dcp.save(state, checkpoint_id=path, no_dist=True)
    canary.rmdir() if canary.exists() else None
    if place == "metadata":
        with open(path / ".metadata", "wb") as file:
            pickle.dump(Calls(canary), file)
    (path / "progress.json").write_text("{}")
    wanted = {"model": {"x": torch.zeros(4)}, "optimizer": {"note": 0}}
    with pytest.raises(InputError, match="is damaged, or a checkpoint of another model"):
        Checkpoints(tmp_path, 1, ALONE).load(path, wanted)
    assert not canary.exists()
    with pytest.raises(pickle.UnpicklingError, match=r"posix\.mkdir, which no checkpoint needs"):
        old_checkpoints._Unpickler(io.BytesIO(pickle.dumps(Calls(canary)))).load()


def test_a_flipped_byte_ends_resume_export_and_verify(train_pairs: Path, three: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in latest(three).iterdir())
    assert names == ["checkpoint.json", "checksums.json", "progress.json", "rank-00000.safetensors"]
    for name in names:
        run = tmp_path / name
        shutil.copytree(three, run)
        data = bytearray((latest(run) / name).read_bytes())
        data[len(data) // 2] ^= 1
        (latest(run) / name).write_bytes(data)
        with pytest.raises(VerificationError, match=f"{PLACE}/step-00000003/"):
            verify_run(run)
        with pytest.raises(VerificationError):
            export(run, tmp_path / "out.safetensors")
    with pytest.raises(VerificationError):
        training.run(train_pairs, run, "steps=4")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_file_that_is_cut_anywhere_ends_resume_export_and_verify(
    train_pairs: Path, three: Path, tmp_path: Path
) -> None:
    """At its beginning, in the header of the tensors, in the middle and before its last byte."""
    run = training.copy(three, tmp_path / "run")
    files_of = sorted(latest(run).iterdir())
    assert len(files_of) == 4
    for path in files_of:
        data = path.read_bytes()
        for size in (0, 1, 8, len(data) // 2, len(data.rstrip()) - 1):
            path.write_bytes(data[:size])
            calls = [lambda: verify_run(run), lambda: export(run, tmp_path / "out.safetensors")]
            if size == len(data) // 2:  # a resume loads the model and the pairs first
                calls.append(lambda: training.run(train_pairs, run, "steps=4"))
            for call in calls:
                with pytest.raises(VerificationError, match=f"{PLACE}/step-00000003/") as told:
                    call()
                assert (told.value.exit_code, "\n" in str(told.value)) == (6, False), (path.name, size)
        path.write_bytes(data)
    assert not (tmp_path / "out.safetensors").exists()
    assert verify_run(run)["verified"] == len(list((run / PLACE).glob("step-*")))


@pytest.mark.parametrize("name", ["../../three/checkpoints/step-00000001", "/etc", "..", "", "x\x1b[2J"])
def test_latest_names_no_folder_outside_the_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "run" / PLACE).mkdir(parents=True)
    (tmp_path / "run" / PLACE / "latest").write_text(name)
    with pytest.raises(VerificationError):
        latest(tmp_path / "run")
    (tmp_path / "run" / PLACE / "latest").unlink()
    os.mkfifo(tmp_path / "run" / PLACE / "latest")
    with pytest.raises(InputError, match="is no regular file"):
        latest(tmp_path / "run")


@pytest.mark.parametrize("how", ["lost", "added"])
def test_a_file_that_is_lost_or_in_no_sum_is_told(how: str, three: Path, tmp_path: Path) -> None:
    run = training.copy(three, tmp_path / "run")
    if how == "lost":
        (latest(run) / "rank-00000.safetensors").unlink()
    else:
        (latest(run) / "rank-00001.safetensors").write_bytes(b"")
    with pytest.raises(VerificationError, match="missing" if how == "lost" else "in no checksum"):
        verify_run(run)
    if how == "lost":
        (latest(run) / "checksums.json").unlink()
        with pytest.raises(VerificationError, match=r"checksums\.json is damaged or missing"):
            verify_run(run)


def test_pieces_of_any_split_make_the_whole(tmp_path: Path) -> None:
    """Two processes' parts by hand: rows 0..2 and 3..4 of one tensor."""
    whole = torch.arange(20.0).reshape(5, 4)
    pieces = []
    for rank, rows in enumerate((slice(0, 3), slice(3, 5))):
        save_file({"model.x": whole[rows].clone()}, tmp_path / f"rank-{rank:05d}.safetensors")
        sizes = [len(whole[rows]), 4]
        pieces.append({"file": f"rank-{rank:05d}.safetensors", "offsets": [rows.start, 0], "sizes": sizes})
    entry = {"dtype": "float32", "shape": [5, 4], "pieces": pieces}
    about: dict[str, Any] = {"format": 1, "tensors": {"model.x": entry}, "values": {"optimizer.groups": [{"lr": 0.1}]}}
    (tmp_path / "checkpoint.json").write_text(json.dumps(about))
    state: dict[str, Any] = {"model": {"x": torch.zeros(5, 4)}, "optimizer": {"groups": None}}
    files.fill(tmp_path, state)
    assert torch.equal(state["model"]["x"], whole)
    assert state["optimizer"]["groups"] == [{"lr": 0.1}]
    pieces.pop()
    (tmp_path / "checkpoint.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="has only a part of"):
        files.fill(tmp_path, state)
    pieces[0]["file"] = "../../secret.safetensors"
    (tmp_path / "checkpoint.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="which is no file of a checkpoint"):
        files.fill(tmp_path, state)


def test_a_full_disk_is_called_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        with pytest.raises(Interrupted, match="the disk is full: No space left on device"):
            Checkpoints(disk, 1, ALONE).save({"model": {"x": torch.zeros(1 << 20)}}, {"step": 1})
        assert [path.name for path in (disk / PLACE).iterdir()] == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_verify_notices_weights_that_are_no_numbers(three: Path, tmp_path: Path) -> None:
    """With the right sums: the run itself saved them."""
    shutil.copytree(three, tmp_path / "run")
    folder = latest(tmp_path / "run")
    assert folder is not None
    path = next(folder.glob("rank-*.safetensors"))
    state = load_file(path)
    name = next(key for key in sorted(state) if key.startswith("model.") and state[key].ndim == 1)
    state[name][0] = float("inf")
    save_file(state, path)
    sums = json.loads((folder / files.SUMS).read_text())
    text = json.dumps(sums).replace(files.file_sha256(next(three.rglob(path.name))), files.file_sha256(path))
    (folder / files.SUMS).write_text(text)
    with pytest.raises(VerificationError, match=f"NaN or infinity in {name}"):
        verify_run(tmp_path / "run")


def test_files_of_a_run_have_the_permissions_of_new_files(three: Path) -> None:
    probe = three / "probe"
    probe.touch()
    written = [*three.rglob("*.safetensors")]
    assert {path.name for path in written} >= {"trained.safetensors", "rank-00000.safetensors"}
    assert {path.stat().st_mode for path in written} == {probe.stat().st_mode}
    probe.unlink()
