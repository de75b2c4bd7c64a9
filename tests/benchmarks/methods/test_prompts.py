"""Prompts: what a suite carries, what a method is given and what it is called, without running a method."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.methods import adapters
from benchmarks.methods.prompts import Prompts, check_order, plain_prompts, prompts_of_files, stage_prompts
from benchmarks.methods.run import run_adapter
from benchmarks.suites import suite as suites
from benchmarks.suites.prepare import prepare
from benchmarks.suites.prompts import PromptRecord, encode_prompts, read_prompts
from lucidflux_data.errors import ConfigError, InputError, VerificationError
from pipelines.bench import infer
from tests.support import hostile

TEXTS = {"a": "A cat.", "b": "Zwei Kühe,\nein Baum.", "c": ""}


def oracle(texts: dict[str, str]) -> str:
    each = {id_: hashlib.sha256(text.encode()).hexdigest() for id_, text in texts.items()}
    return hashlib.sha256("".join(f"{id_} {each[id_]}\n" for id_ in sorted(each)).encode()).hexdigest()


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    folder = tmp_path / "captions"
    folder.mkdir()
    for id_, text in TEXTS.items():
        (folder / f"{id_}.txt").write_bytes(text.encode())
    record = ["captioner = 'llava-v1.5-13b'", "revision = 'abc'", f"sha256 = '{oracle(TEXTS)}'"]
    (folder / "prompts.toml").write_text("\n".join(record))
    return folder


def test_exactly_the_prompts_of_the_ids_that_run_are_staged(captions: Path, tmp_path: Path) -> None:
    chosen = prompts_of_files(read_prompts(captions, ["a", "b"]))
    stage_prompts(chosen, ["b"], tmp_path / "staged")
    assert [path.name for path in (tmp_path / "staged").iterdir()] == ["b.txt"]
    assert (tmp_path / "staged" / "b.txt").read_bytes() == TEXTS["b"].encode()
    for number, (asked, text) in enumerate((("none", ""), ("fixed:a: b", "a: b"))):
        plain = plain_prompts(asked)
        assert plain is not None
        stage_prompts(plain, TEXTS, tmp_path / str(number))
        assert [path.read_text() for path in (tmp_path / str(number)).iterdir()] == [text] * 3


def test_how_a_method_is_told_is_in_its_name_and_settings(captions: Path) -> None:
    adapter = adapters.load_adapter("dit4sr")
    names = {}
    for asked in ("none", "fixed:sharp", str(captions)):
        chosen = infer.choose_prompts("dit4sr", asked, None, TEXTS)
        settings, method = adapters.resolve(adapter, ["steps=20"], chosen)
        names[method] = {key: value for key, value in settings.items() if key not in adapter.settings}
    assert names == {
        "dit4sr[prompts=none,steps=20]": {"prompts": "none"},
        "dit4sr[prompts=fixed,steps=20]": {"prompts": "fixed", "prompt": "sharp"},
        "dit4sr[prompts=file,steps=20]": {
            **{"prompts": "file", "captioner": "llava-v1.5-13b", "captioner_revision": "abc"},
            "prompts_sha256": oracle(TEXTS),
        },
    }


def test_names_that_sort_in_two_ways_are_not_paired_by_position(tmp_path: Path) -> None:
    """a.png before a.q.png, and a.q.txt before a.txt."""
    for ids, wrong in ((("a", "a-b", "b"), False), (("a", "a.q"), True)):
        folder = tmp_path / ids[1]
        (folder / "inputs").mkdir(parents=True)
        for id_ in ids:
            (folder / "inputs" / f"{id_}.png").touch()
        stage_prompts(Prompts("none"), ids, folder / "prompts")
        if wrong:
            with pytest.raises(InputError, match=r"a would be given the prompt of a\.q: their names sort in two ways"):
                check_order(folder / "inputs", folder / "prompts")
        else:
            check_order(folder / "inputs", folder / "prompts")


def test_prompts_that_are_not_the_recorded_ones_are_refused(captions: Path) -> None:
    with pytest.raises(InputError, match=r"captions has no d\.txt \(1 such ids\)"):
        read_prompts(captions, ["a", "d"])
    (captions / "a.txt").write_text("A dog.")
    with pytest.raises(VerificationError, match=f"sha256 {oracle(TEXTS | {'a': 'A dog.'})}, not {oracle(TEXTS)[:16]}"):
        read_prompts(captions, TEXTS)
    pinned = PromptRecord(captioner="x", revision="1", sha256=oracle(TEXTS | {"a": "A dog."}))
    assert read_prompts(captions, TEXTS, pinned).record == pinned  # a suite file's record comes before the folder's
    (captions / "a.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"a\.txt is not UTF-8 text"):
        read_prompts(captions, TEXTS)
    (captions / "a.txt").write_text(TEXTS["a"])
    (captions / "prompts.toml").write_text("captioner = 'x'\nrevision = 'y'")
    with pytest.raises(ConfigError, match=r"prompts\.toml lacks the key sha256"):
        read_prompts(captions, TEXTS)


PROGRAM = """
import shutil, sys
from pathlib import Path
inputs, outputs, prompts = map(Path, sys.argv[1:])
for path in prompts.iterdir():
    shutil.copyfile(path, Path.cwd() / path.name)
for path in inputs.iterdir():
    shutil.copyfile(path, outputs / path.name)
"""


def test_the_command_is_given_the_prompts_of_what_is_left(captions: Path, tmp_path: Path) -> None:
    """`a` is there already, so that the program sees b and c alone, and their prompts."""
    pixels = Image.new("RGB", (8, 8))
    for folder in ("lq", "repo", "out"):
        (tmp_path / folder).mkdir()
    for id_ in TEXTS:
        pixels.save(tmp_path / "lq" / f"{id_}.png")
    pixels.save(tmp_path / "out" / "a.png")
    (tmp_path / "repo" / "copy_all.py").write_text(PROGRAM)
    adapter = adapters.Adapter(
        **{"name": "mine", "about": "x", "repository": "x", "commit": "x", "licence": "x", "weights": "x"},
        **{"command": "{python} copy_all.py {inputs} {outputs} {prompts}", "collect": "*.png"},
        prompts_by_order=True,
    )
    chosen = infer.choose_prompts("hypir", str(captions), None, TEXTS)
    assert chosen is not None
    inputs = {id_: tmp_path / "lq" / f"{id_}.png" for id_ in TEXTS}
    settings = adapters.resolve(adapter, [], chosen)[0]
    places = (tmp_path, tmp_path / "out", settings, 1, 0, sys.executable, tmp_path / "repo", None)
    run = run_adapter(adapter, inputs, *places, chosen)
    assert run is not None
    assert (run["images"], run["missing"], run["remarks"]) == (2, [], {})
    seen = {path.stem: path.read_bytes().decode() for path in (tmp_path / "repo").glob("*.txt")}
    assert seen == {id_: text for id_, text in TEXTS.items() if id_ != "a"}


@pytest.mark.parametrize(
    ("method", "asked", "told"),
    [
        ("seesr", "none", "seesr takes no prompts: leave out --prompts"),
        ("bicubic", "none", "bicubic takes no prompts"),
        ("hypir", None, "hypir takes prompts: give --prompts none, fixed:TEXT, file"),
        ("hypir", "file", "--inputs carries no prompts"),
        ("hypir", "fixed: ", "fixed: has no text after the colon"),
    ],
)
def test_a_method_and_its_prompts_fit(method: str, asked: str | None, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        infer.choose_prompts(method, asked, None, TEXTS)


def test_a_prepared_suite_carries_its_prompts(captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie beside the images, are read back from there, and stay when the suite is prepared again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "archive" / "lq").mkdir(parents=True)
    for number, id_ in enumerate(TEXTS):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "archive" / "lq" / f"{id_}.png")
    wanted = replace(suites.load_suite("realset65", None), count=3, ids=None, layout={"lq": ["lq"]}, pins={})
    place = tmp_path / "suites" / "realset65"
    assert prepare(wanted, tmp_path / "archive", place, captions)["prompts"] == 3
    assert prepare(wanted, tmp_path / "archive", place)["prompts"] == 3
    carried = suites.load_suite("realset65", tmp_path / "suites")
    chosen = infer.choose_prompts("hypir", "file", carried, carried.lq)
    assert chosen is not None
    assert {id_: text.decode() for id_, text in chosen.texts.items()} == TEXTS
    assert chosen.settings["prompts_sha256"] == oracle(TEXTS)
    for text in ('a "b" \\ c', "Kühe \U0001f404", *(text for text in hostile.TEXTS if text)):
        quoted = PromptRecord(captioner=text, revision="1", sha256=oracle(TEXTS))
        (place / "prompts" / "prompts.toml").write_bytes(
            encode_prompts(replace(read_prompts(captions, TEXTS), record=quoted))["prompts.toml"]
        )
        assert read_prompts(place / "prompts", TEXTS).record == quoted


@pytest.mark.parametrize("name", ["a.txt", "prompts.toml"])
def test_pipes_and_devices_among_prompts_are_not_opened(captions: Path, name: str) -> None:
    (captions / name).unlink()
    os.mkfifo(captions / name)
    with pytest.raises(InputError, match="is no regular file"):
        read_prompts(captions, TEXTS)
    (captions / name).unlink()
    (captions / name).symlink_to("/dev/zero")
    with pytest.raises(InputError, match="is no regular file"):
        read_prompts(captions, TEXTS)


def test_a_prompt_has_an_end(captions: Path) -> None:
    with (captions / "a.txt").open("wb") as file:
        file.truncate(40 << 30)
    with pytest.raises(InputError, match=r"a\.txt has more than 1,048,576 bytes"):
        read_prompts(captions, TEXTS)


def test_a_dry_run_shows_the_command_and_the_prompts(captions: Path, photos: Path, bench_here, tmp_path: Path) -> None:
    asked = ["infer", "hypir", "--inputs", photos / "lq", "--out", tmp_path / "out", "--dry-run", "--json"]
    done = bench_here(*asked, "--prompts", "fixed:a photo")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["method"] == "hypir[prompts=fixed]"
    assert told["command"][told["command"].index("--txt_dir") + 1] == "<prompts>"
    assert told["settings"]["prompt"] == "a photo"
    done = bench_here(*asked, "--prompts", captions)
    assert (done.returncode, done.stderr.count("has no astronaut.txt (6 such ids)")) == (3, 1)
