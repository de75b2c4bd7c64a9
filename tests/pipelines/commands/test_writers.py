"""What every command of both programs writes, and whose lease it takes: asked of typer itself, so that a new command
without an answer here fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import cli
from lucidflux_data.errors import FolderBusy
from lucidflux_data.iqa.weight_files import location
from lucidflux_data.storage.lease import NAME
from tests.support.here import run_filter, run_synthesize, verified
from tests.support.leases import foreign, write_lease
from tests.support.photos import write_crops
from tests.support.scenarios import tree

ALL = ["iqa.metric=none", "rules.min_side=64", "rules.min_laplacian_variance=0", "rules.max_laplacian_variance=999999"]
ALL += ["rules.max_flat_fraction=1", "shards.max_samples=4"]
PROGRAMS = {"lucidflux": cli.app, "lucidflux-data": cli.data_app}

# The command -> its words, and the folder whose lease it takes. {place} is a packed run, also where a command makes
# something else in it: who writes there is told before what is there is looked at.
WRITES: dict[str, tuple[str, str]] = {
    "lucidflux-data filter": ("{photos} --out {place} --iqa none", "{place}"),
    "lucidflux-data score": ("{photos} --out {place} --iqa none", "{place}"),
    "lucidflux-data select": ("{place} --executor local", "{place}"),
    "lucidflux-data pack": ("{place} --executor local", "{place}"),
    "lucidflux-data retry": ("{place} --executor local", "{place}"),
    "lucidflux-data forget": ("{place} 00000000000000000000", "{place}"),
    "lucidflux-data verify": ("{place} --repair", "{place}"),
    "lucidflux-data report": ("{place}", "{place}"),
    "lucidflux-data explore": ("{place}", "{place}"),
    "lucidflux-data card": ("{place}", "{place}"),
    "lucidflux-data push": ("{place} --to hf://datasets/a/b", "{place}"),
    "lucidflux-data plan": (
        "{photos} --num-cpus 1 --sample 1 --iqa none --out {place}",
        "{place}",
    ),
    "lucidflux-data fingerprint": ("{photos} --name mine --out {place}/mine.parquet", "{place}"),
    "lucidflux-data synthesize": ("{photos} --out {place}", "{place}"),
    "lucidflux-data replay": ("{pairs} 0123456789abcdef0123_00 --out {place}", "{place}"),
    "lucidflux-data view": ("{pairs} --out {place}/pairs.html", "{place}"),
    "lucidflux restore": ("{photos} --out {place} --model tiny", "{place}"),
    "lucidflux train": ("--data {photos} --out {place} --model tiny --num-cpus 1", "{place}"),
    "lucidflux cache": ("{pairs} --model tiny --executor local", "{cache}"),
    "lucidflux demo": ("--out {place} --executor local", "{place}"),
    "lucidflux bench eval": ("--outputs {photos} --inputs {photos} --metrics psnr --out {place}", "{place}"),
    "lucidflux bench infer": ("bicubic --inputs {photos} --out {place}/..", "{place}"),
    "lucidflux bench vote": ("--outputs a={photos} b={others} --out {place}", "{place}"),
    "lucidflux bench prepare": ("offline-photos --suites-dir {place}", "{place}"),
    "lucidflux weights download": ("--out {place}", "{place}"),
    "lucidflux weights convert": ("{photos} --out {place}/new --model tiny", "{place}/new.part"),
    "lucidflux weights export": ("{photos} --out {place}/lucidflux.safetensors", "{place}"),
    "lucidflux weights prompt": ("{photos} --out {place}/prompt_embeddings.safetensors", "{place}"),
}
FURTHER = [  # of commands that write elsewhere under other options
    ("lucidflux-data score", "{place} --scorer operator:length_hint --executor local", "{place}"),
    ("lucidflux-data select", "{place} {place} --out {other} --executor local", "{other}"),
    ("lucidflux-data view", "{place}", "{place}"),
    ("lucidflux weights download", "brisque", "{weights}"),
]
READS = {
    "lucidflux-data explain": "{place} {key}",
    "lucidflux-data diff": "{place} {place}",
    "lucidflux-data what-if": "{place}",
    "lucidflux-data info": "{pairs}",
    "lucidflux-data doctor": "",
    "lucidflux doctor": "",
    "lucidflux bench suites": "--suites-dir {place}",
    "lucidflux bench compare": "{place} {place}",
    "lucidflux bench published": "--suite realsr",
    "lucidflux bench doctor": "",
    "lucidflux weights verify": "{place}",
    "lucidflux weights parity": "{place}",
}


def commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


KNOWN = dict(found for name, app in PROGRAMS.items() for found in commands(typer.main.get_command(app), name))


def test_of_every_command_it_is_known_whether_it_writes() -> None:
    assert len(KNOWN) > 35
    assert WRITES.keys() | READS.keys() == KNOWN.keys()
    assert not WRITES.keys() & READS.keys()


@pytest.mark.parametrize("command", KNOWN)
def test_who_writes_can_wait(command: str) -> None:
    options = {word for parameter in KNOWN[command].params for word in parameter.opts}
    assert ("--wait" in options) is (command in WRITES)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    return write_crops(tmp_path_factory.mktemp("photos"), photo_paths)


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed run and pairs of it."""
    base = tmp_path_factory.mktemp("made")
    run_filter(photos, base / "run", *ALL)
    run_synthesize(base / "run", base / "pairs", "degrade.size=96", "variants=1", "degrade.crop.too_small=reflect")
    return base


@pytest.fixture
def places(made: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path | str]:
    """`place` has the name that `bench infer` gives the folder that it writes."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False, raising=False)
    place, pairs = tmp_path / "bicubic", tmp_path / "pairs"
    shutil.copytree(made / "run", place)
    shutil.copytree(made / "pairs", pairs)
    (tmp_path / "others").mkdir()
    names = sorted(path.name for path in photos.iterdir())
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        shutil.copy(photos / other, tmp_path / "others" / name)
    weights = location("pyiqa/brisque_svm_weights.pth").parent
    found: dict[str, Path | str] = {"place": place, "pairs": pairs, "photos": photos, "weights": weights}
    return {**found, "other": tmp_path / "other", "others": tmp_path / "others", "key": names[0]}


def run(command: str, words: str) -> Any:
    program, *verbs = command.split()
    return CliRunner().invoke(PROGRAMS[program], [*verbs, *words.split()])


def cache_of(pairs: Path) -> Path:
    from lucidflux_data.storage.folder import Folder
    from lucidflux_model.samples.cached import cache_folder
    from lucidflux_model.training.config import make_train_config
    from lucidflux_model.training.setup import base_digest

    return Path(cache_folder(Folder(pairs), base_digest(make_train_config(None, ["model.name=tiny"]))).root)


@pytest.mark.parametrize(
    ("command", "words", "held"),
    [*((command, *answer) for command, answer in WRITES.items()), *FURTHER],
    ids=lambda value: value if value.startswith("lucidflux") else "",
)
def test_who_writes_ends_while_another_does(command: str, words: str, held: str, places: dict[str, Path | str]) -> None:
    if held == "{cache}":
        places["cache"] = cache_of(Path(places["pairs"]))
    folder = Path(held.format(**places))
    folder.mkdir(parents=True, exist_ok=True)
    write_lease(str(folder), foreign())
    before = tree(folder)
    result = run(command, words.format(**places))
    assert isinstance(result.exception, FolderBusy), (result.output, result.exception)
    assert result.exception.exit_code == 5
    assert "process 4242 on node-7" in str(result.exception)
    assert "ago; last heartbeat" in str(result.exception)
    assert tree(folder) == before
    if folder == places["place"]:
        assert verified(folder) == 6, "who reads is let in, and the lease is no stray"


@pytest.mark.parametrize("command", READS)
def test_who_reads_is_let_in_and_writes_nothing(command: str, places: dict[str, Path | str]) -> None:
    for name in ("place", "pairs"):
        write_lease(str(places[name]), foreign())
    before = tree(Path(places["place"])), tree(Path(places["pairs"]))
    result = run(command, READS[command].format(**places))
    assert not isinstance(result.exception, FolderBusy)
    assert (tree(Path(places["place"])), tree(Path(places["pairs"]))) == before
    assert (Path(places["place"]) / NAME).exists()
