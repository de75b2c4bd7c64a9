"""Cards against the files that they speak of, read by the libraries that they are written for."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from PIL import Image

from lucidflux_data.escapes import UNSEEN, for_markdown, for_markdown_code
from lucidflux_data.publish import licences
from lucidflux_data.publish.card import make_readme
from lucidflux_data.publish.facts import Reason, gather_facts
from lucidflux_data.storage.folder import Folder
from tests.lucidflux_data.publish.conftest import RULES
from tests.support import hostile
from tests.support.here import run_filter, run_synthesize


@pytest.fixture(scope="module")
def sets(made_run: Path, made_pairs: Path, data_command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies of both kinds of set with their cards."""
    place = tmp_path_factory.mktemp("cards")
    found = {"run": place / "run", "pairs": place / "pairs"}
    shutil.copytree(made_run, found["run"])
    shutil.copytree(made_pairs, found["pairs"])
    for folder in found.values():
        done = data_command("card", folder, "--creator", "A Lab", "--to", "hf://datasets/lab/set")
        assert done.returncode == 0, done.stderr
    return found


def tars(folder: Path) -> list[Path]:
    return sorted((folder / "shards").glob("*.tar"))


def members(folder: Path) -> dict[str, bytes]:
    """Every file of the shards, by tarfile."""
    found = {}
    for path in tars(folder):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


def front_of(folder: Path) -> dict[str, Any]:
    _, front, _ = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front)


def test_the_front_matter_is_what_the_hub_reads(sets: dict[str, Path]) -> None:
    front = front_of(sets["run"])
    assert front["license"] == ["cc-by-4.0", "cc0-1.0", "other", "unknown"]
    assert front["size_categories"] == ["n<1K"]
    assert front["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "shards/hq-*.tar"}]}
    ]
    features = {each["name"]: each["dtype"] for each in front["dataset_info"]["features"]}
    assert features == {"jpg": "image", "png": "image", "json": "json", "__key__": "string", "__url__": "string"}
    pairs = front_of(sets["pairs"])
    assert pairs["configs"][0]["data_files"][0]["path"] == "shards/pairs-*.tar"
    assert "super-resolution" in pairs["tags"]


def test_licences_are_those_of_the_source_and_none_is_invented(sets: dict[str, Path]) -> None:
    text = (sets["run"] / "README.md").read_text()
    table = text.split("| licence | images |\n|---|---|\n")[1].split("\n\n")[0]
    assert sorted(table.splitlines()) == sorted([
        "| CC0-1.0 | 1 |",
        "| https://creativecommons.org/licenses/by/4.0/ | 1 |",
        r"| Own \| &lt;b&gt;terms&lt;/b&gt; | 1 |",
        "| not recorded | 1 |",
    ])  # fmt: skip
    croissant = json.loads((sets["run"] / "croissant.json").read_text())
    assert sorted(croissant["license"]) == sorted(
        ["CC0-1.0", "https://creativecommons.org/licenses/by/4.0/", "Own | <b>terms</b>"]
    )


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("not recorded", "unknown"),
        ("CC0", "cc0-1.0"),
        ("CC BY-SA 4.0", "cc-by-sa-4.0"),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0"),
        ("https://creativecommons.org/licenses/by-nc-nd/4.0/deed.de", "cc-by-nc-nd-4.0"),
        ("https://creativecommons.org/licenses/by/9.9/", "other"),
        ("All rights reserved", "other"),
    ],
)
def test_a_licence_is_called_as_the_hub_does(stated: str, expected: str) -> None:
    assert licences.hub_id(stated) == expected


def test_what_was_not_looked_into_is_named(sets: dict[str, Path]) -> None:
    _, told = (sets["run"] / "README.md").read_text().split("## What was not looked into")
    for part in ("no benchmark suite", "EXIF", "No opt-out list", "Near-duplicates were not looked for",
                 "licence of 1 images is not recorded", "What the images show"):  # fmt: skip
        assert part in told
    _, of_pairs = (sets["pairs"] / "README.md").read_text().split("## What was not looked into")
    for part in ("no benchmark suite", "No opt-out list", "Near-duplicates"):
        assert part in of_pairs


def test_what_was_looked_into_is_told_without_places(photos: Path, data_command, tmp_path: Path) -> None:
    """Suite, opt-out list, stripping, near-duplicates and a forgotten image; no path of this machine is in the card."""
    suite, taken = tmp_path / "suite.parquet", tmp_path / "asked.txt"
    assert data_command("fingerprint", photos / "grey.png", "--name", "grey", "--out", suite).returncode == 0
    taken.write_text(hashlib.sha256((photos / "grey.png").read_bytes()).hexdigest())
    run = tmp_path / "run"
    looked = (f"select.forbid={suite}", f"select.opt_out={taken}", "shards.strip=gps", "select.near_duplicates=2")
    run_filter(photos, run, *RULES, *looked)
    kept = [row for row in pq.read_table(run / "selected.parquet").to_pylist() if row["keep"]]
    assert data_command("forget", run, kept[0]["key"]).returncode == 0
    done = data_command("card", run)
    assert done.returncode == 0, done.stderr
    text = (run / "README.md").read_text()
    told = text.split("## What was looked into")[1].split("## What was not looked into")[0]
    for part in ("every image of suite.parquet", "Opt-out lists were applied (asked.txt)", "--strip gps",
                 "1 images (by key or sha256) were taken out"):  # fmt: skip
        assert part in told
    assert f"{len(kept) - 1} images kept of" in text
    for name in ("README.md", "croissant.json"):
        assert str(tmp_path) not in (run / name).read_text()
        assert str(photos.parent) not in (run / name).read_text()
    pushed = data_command("push", run, "--to", "hf://datasets/lab/set", "--dry-run")
    assert f"names 1 suites by their place, which others will read: {suite}" in pushed.stderr


def records_of(folder: Path) -> list[dict[str, Any]]:
    """By mlcroissant, which finds no fault; the shards are those of the folder, as the Hub is away."""
    import mlcroissant

    dataset = mlcroissant.Dataset(str(folder / "croissant.json"), mapping={path.name: path for path in tars(folder)})
    assert not dataset.metadata.ctx.issues.errors
    assert dataset.metadata.url == "https://huggingface.co/datasets/lab/set"
    return [{name.partition("/")[2]: value for name, value in record.items()} for record in dataset.records("samples")]


def test_mlcroissant_reads_every_image(sets: dict[str, Path], croissant_cache: None) -> None:
    inside = members(sets["run"])
    images = {name.partition(".")[0]: data for name, data in inside.items() if not name.endswith(".json")}
    records = records_of(sets["run"])
    assert sorted(record["key"].decode() for record in records) == sorted(images)
    for record in records:
        expected = Image.open(io.BytesIO(images[record["key"].decode()]))
        assert np.array_equal(np.asarray(record["image"]), np.asarray(expected))


def test_mlcroissant_joins_the_two_images_of_a_pair(sets: dict[str, Path], croissant_cache: None) -> None:
    inside = members(sets["pairs"])
    records = records_of(sets["pairs"])
    assert len(records) == len(inside) // 3
    for record in records:
        for side in ("hq", "lq"):
            expected = Image.open(io.BytesIO(inside[f"{record['key'].decode()}.{side}.png"]))
            assert np.array_equal(np.asarray(record[side]), np.asarray(expected))


def test_shards_are_named_beside_the_file_before_the_set_has_a_place(
    made_run: Path, data_command, croissant_cache: None, tmp_path: Path
) -> None:
    import mlcroissant

    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    assert data_command("card", run).returncode == 0
    dataset = mlcroissant.Dataset(str(run / "croissant.json"))
    keys = {record["samples/key"].decode() for record in dataset.records("samples")}
    assert keys == {name.partition(".")[0] for name in members(run)}


@pytest.mark.parametrize("kind", ["run", "pairs"])
def test_croissant_has_the_sha256_of_every_shard(kind: str, sets: dict[str, Path]) -> None:
    found = json.loads((sets[kind] / "croissant.json").read_text())
    told = {node["contentUrl"]: node["sha256"] for node in found["distribution"] if node["@type"] == "cr:FileObject"}
    place = "https://huggingface.co/datasets/lab/set/resolve/main/shards"
    assert told == {f"{place}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in tars(sets[kind])}


@pytest.mark.parametrize("kind", ["run", "pairs"])
def test_datasets_reads_the_folder_by_its_card(kind: str, sets: dict[str, Path], tmp_path: Path) -> None:
    """The bytes of every member, by the front matter alone, in memory and streamed."""
    import datasets

    inside = members(sets[kind])
    for options in ({"cache_dir": str(tmp_path)}, {"streaming": True}):
        found = datasets.load_dataset(str(sets[kind]), split="train", **options)
        names = [name for name, feature in found.features.items() if isinstance(feature, datasets.Image)]
        for name in names:
            found = found.cast_column(name, datasets.Image(decode=False))
        read = {}
        for row in found:
            key = row["__key__"]
            read |= {f"{key}.{name}": row[name]["bytes"] for name in names if row[name] is not None}
            assert row["json"]["source_key"] == json.loads(inside[f"{key}.json"])["source_key"]
        assert read == {name: data for name, data in inside.items() if not name.endswith(".json")}


def test_datasets_reads_tars_of_one_format_without_a_card(made_pairs: Path) -> None:
    import datasets

    files = {"train": [str(path) for path in tars(made_pairs)]}
    found = datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True)
    assert sorted(row["__key__"] for row in found) == sorted({name.partition(".")[0] for name in members(made_pairs)})


@pytest.mark.parametrize("kind", ["run", "pairs"])
def test_webdataset_reads_the_same_bytes(kind: str, sets: dict[str, Path]) -> None:
    urls = json.loads((sets[kind] / "manifest.json").read_text())["urls"]
    read = {}
    for sample in webdataset.WebDataset(str(sets[kind] / "shards" / urls), shardshuffle=False):
        read |= {f"{sample['__key__']}.{name}": data for name, data in sample.items() if not name.startswith("__")}
    assert read == members(sets[kind])


def test_a_card_that_was_edited_is_not_written_over(sets: dict[str, Path], data_command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(sets["run"], run)
    card = run / "README.md"
    written = card.read_bytes()
    again = ("card", run, "--creator", "A Lab", "--to", "hf://datasets/lab/set")
    assert data_command(*again).returncode == 0
    assert card.read_bytes() == written
    card.write_text("Ours alone.\n" + written.decode())
    done = data_command(*again)
    assert done.returncode == 2
    assert "written or edited by hand: --overwrite replaces it" in done.stderr
    assert card.read_text().startswith("Ours alone.")
    assert data_command(*again, "--overwrite").returncode == 0
    assert card.read_bytes() == written


def test_a_name_cannot_add_to_the_front_matter(sets: dict[str, Path], data_command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(sets["run"], run)
    name = "x\n---\nlicense: mit\n---\n<script>alert(1)</script>"
    assert data_command("card", run, "--name", name).returncode == 0
    text = (run / "README.md").read_text()
    assert "<script>" not in text.split("\n---\n", 1)[1]
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["pretty_name"] == name.replace("\n", r"\x0a")
    assert "unknown" in front["license"]


def test_pairs_that_point_into_their_source_have_no_card(made_run: Path, data_command, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    run_synthesize(made_run, pairs, "degrade.size=96", "variants=1", "hq=ref")
    done = data_command("card", pairs)
    assert done.returncode == 2
    assert "which nobody else can follow" in done.stderr
    assert not (pairs / "README.md").exists()


def test_names_of_strangers_make_no_line_and_no_markup_of_a_card(sets: dict[str, Path]) -> None:
    """Extensions in a stranger's index, reasons in a stranger's ledger."""
    plain = gather_facts(Folder(sets["run"]))
    for text in hostile.TEXTS:
        facts = replace(
            plain, members={text: 1}, reasons=[Reason(text, 1, text)], licences={text: 1}, settings={text: text}
        )
        card = make_readme(facts, text, None).decode()
        _, _, body = card.split("---\n", 2)
        assert [line for line in body.splitlines() if line.startswith(("# ", "</"))] == [f"# {for_markdown(text)}"]
        assert for_markdown_code(f".{text}") in body
        assert f"| 1 | {for_markdown(f'{text}: {text}')} |" in body
        assert not any(unicodedata.category(each) in UNSEEN for each in body.replace("\n", ""))
