"""Files that a user edits: adapters, suites, pins, profiles. Each fault is one sentence with the file and the key."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest
from pydantic import BaseModel

from benchmarks.methods import adapters
from benchmarks.metrics import profiles
from benchmarks.suites import suite as suites
from lucidflux_data.errors import ConfigError

ADAPTER = {
    "about": "'x'",
    "repository": "'https://host/x'",
    "commit": "'abcdef0'",
    "licence": "'MIT'",
    "weights": "'none'",
    "command": "'{python} run.py {inputs} {outputs} {steps}'",
    "collect": "'*.png'",
    "settings": "{ steps = '4' }",
}
SUITE = {"about": "'x'", "version": "1", "scale": "4", "count": "2", "gt": "true", "ids": "'{1..2}'"}
ROW = "[{ name = 'psnr', channel = 'rgb' }, { name = 'lr_consistency', ranked = false }]"


def write(file: Path, keys: dict[str, str], changes: dict[str, str | None]) -> Path:
    kept = {key: value for key, value in (keys | changes).items() if value is not None}
    file.write_text("".join(f"{key} = {value}\n" for key, value in kept.items()))
    return file


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("output_size", "'x4'", "output_size: input should be a list (it is 'x4')"),
        ("output_size", "[64]", "output_size.1"),
        ("output_size", "[64, 64, 3]", "output_size: List should have at most 2 items"),
        ("output_size", "['64', '64']", "output_size.0: input should be a valid integer (it is '64')"),
        ("output_size", "[0, 64]", "output_size.0: input should be greater than or equal to 1 (it is 0)"),
        ("environment", "'pip install x'", "environment: input should be a list (it is 'pip install x')"),
        ("gotchas", "'slow'", "gotchas: input should be a list"),
        ("gpus", "'1'", "gpus: input should be a valid integer (it is '1')"),
        ("gpus", "true", "gpus: input should be a valid integer (it is True)"),
        ("gpus", "-1", "gpus: input should be greater than or equal to 0"),
        ("settings", "{ steps = 4 }", "settings.steps: input should be a valid string (it is 4)"),
        ("settings", "'steps=4'", "settings: input should be a table"),
        ("settings", "{ steps = '4', seed = '1' }", "settings: `bench infer` gives seed itself"),
        ("command", "'{python} {nothing}'", "command: there is no {nothing}"),
        ("command", "'{python.real}'", "command: there is no {python.real}"),
        ("command", "'{}'", "command: there is no {}"),
        ("command", "'{steps:03d}'", "command: {steps} is filled in as it is"),
        ("command", "'{python'", "command: is no template"),
        ("command", '"run \'x"', "command: is no template"),
        ("command", "['run']", "command: input should be a valid string"),
        ("command", None, "lacks the key command"),
        ("collect", "'/tmp/*.png'", "collect: leads out of {outputs}"),
        ("collect", "'../*.png'", "collect: leads out of {outputs}"),
        ("collect", "''", "collect: string should have at least 1 character"),
        ("id", "'(.+)'", "id: has no group named id"),
        ("id", "'(?P<id>'", "id: is no regular expression"),
        ("stage", "'png'", "stage: input should be a table"),
        ("stage", "{ form = 'jpeg' }", "stage.form: input should be 'link' or 'png' (it is 'jpeg')"),
        ("stage", "{ min_side = '128' }", "stage.min_side: input should be a valid integer (it is '128')"),
        ("stage", "{ multiple = 0 }", "stage.multiple: input should be greater than or equal to 1 (it is 0)"),
        ("rounds_to", "0", "rounds_to: input should be greater than or equal to 1 (it is 0)"),
        ("licence_class", "'free'", "licence_class: input should be 'commercial', 'noncommercial' or 'unclear'"),
        ("outputsize", "[64, 64]", "has the unknown key outputsize: did you mean output_size?"),
        ("name", "'x'", "has the unknown key name"),
        ("commit", "", "is not TOML"),
    ],
)
def test_a_fault_of_an_adapter_is_one_sentence(key: str, value: str | None, told: str, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.toml", ADAPTER, {})
    assert adapters.load_adapter(str(file)).output_size is None
    write(file, ADAPTER, {key: value})
    with pytest.raises(ConfigError) as raised:
        adapters.load_adapter(str(file))
    sentence = str(raised.value)
    assert sentence.startswith(str(file))
    assert told.lower() in sentence.lower()
    assert "\n" not in sentence


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"about = '\xff'")
    with pytest.raises(ConfigError, match=r"mine\.toml is not UTF-8 text"):
        adapters.load_adapter(str(tmp_path / "mine.toml"))


def test_bench_infer_checks_the_adapter_before_anything_runs(bench_here, tmp_path: Path) -> None:
    """The suite is not there either: an adapter read afterwards would be hidden by that."""
    file = write(tmp_path / "mine.toml", ADAPTER, {"output_size": "'x4'"})
    for asked in (["--inputs", tmp_path / "gone"], ["--suite", "realsr"], ["--suite", "offline-photos", "--dry-run"]):
        done = bench_here("infer", file, *asked, "--out", tmp_path / "out", "--suites-dir", tmp_path / "suites")
        assert done.returncode == 2
        assert "output_size: input should be a list" in " ".join(done.stderr.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.toml"]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("input_size", "'64x64'", "input_size: input should be a list"),
        ("scale", "'x4'", "scale: input should be a valid integer"),
        ("scale", "0", "scale: input should be greater"),
        ("gt", "'yes'", "gt: input should be a valid boolean"),
        ("gt", None, "lacks the key gt"),
        ("ids", "'001-250'", "ids: 001-250 is not a range of ids"),
        ("ids", "['1', '2']", "ids: input should be a valid string"),
        ("count", "3", "count: 3 is not the number of ids, 2"),
        ("layout", "'lq'", "layout: input should be a table"),
        ("layout", "{ lq = 'lq', gt = ['gt'] }", "layout.lq: input should be a list"),
        ("layout", "{ lq = ['lq'] }", "layout: it should have lq and gt"),
        ("layout", "{ hq = ['lq'] }", "layout.hq"),
        ("synthesis", "{ preset = 'x4', seed = 1, size = 64 }", "synthesis.preset: there is no preset"),
        ("synthesis", "{ preset = 'realesrgan-x4', seed = 1, size = '64' }", "synthesis.size: input"),
        ("synthesis", "{ preset = 'realesrgan-x4', seed = 1, size = 64, photos = 'moon' }", "synthesis.photos: input"),
        ("synthesis", "{ preset = 'realesrgan-x4', seed = 1, size = 64, sigma = 1 }", "unknown key synthesis.sigma"),
        ("same_protokol", "true", "unknown key same_protokol: did you mean same_protocol?"),
        ("prompts", "'llava'", "prompts: input should be a table"),
        ("prompts", "{ captioner = 'x', revision = '1' }", "lacks the key prompts.sha256"),
        ("prompts", "{ captioner = 'x', revision = '1', sha256 = 'ab' }", "prompts.sha256: string should match"),
        ("pins", "'../x.json'", "pins: string should match"),
        ("pins", "'none.json'", "none.json cannot be read"),
    ],
)
def test_a_fault_of_a_suite_is_one_sentence(
    key: str, value: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "SUITE_FILES", tmp_path)
    write(tmp_path / "mine.toml", SUITE, {})
    assert suites.load_suite("mine", None).ids == ("1", "2")
    write(tmp_path / "mine.toml", SUITE, {key: value})
    with pytest.raises(ConfigError) as raised:
        suites.load_suite("mine", None)
    assert str(raised.value).startswith(str(tmp_path))
    assert told.lower() in str(raised.value).lower()


def test_sizes_of_a_suite_that_contradict_its_scale_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "SUITE_FILES", tmp_path)
    write(tmp_path / "mine.toml", SUITE, {"input_size": "[8, 4]", "output_size": "[32, 32]"})
    with pytest.raises(ConfigError, match="output_size: input_size times the scale is 32x16"):
        suites.load_suite("mine", None)


@pytest.mark.parametrize(
    ("pin", "told"),
    [
        ({"sha256": "ab", "width": 8, "height": 8}, "1.sha256: string should match"),
        ({"sha256": "a" * 64, "width": "8", "height": 8}, "1.width: input should be a valid integer"),
        ({"sha256": "a" * 64, "width": 8, "height": 0}, "1.height: input should be greater"),
        ({"sha256": "a" * 64, "width": 8}, "lacks the key 1.height"),
        ({"sha256": "a" * 64, "width": 8, "height": 8, "size": 1}, "unknown key 1.size"),
        ("a" * 64, "1: input should be a table"),
        (None, "pins 1 images, the suite has 2"),
    ],
)
def test_a_fault_of_a_pin_is_one_sentence(pin, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "SUITE_FILES", tmp_path)
    write(tmp_path / "mine.toml", SUITE, {"ids": None, "pins": "'mine.json'"})
    right = {"sha256": "a" * 64, "width": 8, "height": 8}
    (tmp_path / "mine.json").write_text(json.dumps({"1": right, "2": right}))
    assert suites.load_suite("mine", None).pins["2"].model_dump() == right
    (tmp_path / "mine.json").write_text(json.dumps({"1": pin, "2": right} if pin else {"2": right}))
    with pytest.raises(ConfigError) as raised:
        suites.load_suite("mine", None)
    assert str(raised.value).startswith(str(tmp_path / "mine.json"))
    assert told.lower() in str(raised.value).lower()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (f"about = 'x'\nmetrics = {ROW}\ngroups = {{ all = ['psnr'] }}", None),
        (f"about = 'x'\nmetrics = {ROW}\ngroups = {{ all = 'psnr' }}", "mine.groups.all: input should be a list"),
        (f"about = 'x'\nmetrics = {ROW}\ngroups = {{ all = ['ssim'] }}", "groups.all: ssim is no ranked metric"),
        (f"about = 'x'\nmetrics = {ROW}\ngroups = {{ all = ['lr_consistency'] }}", "is no ranked metric"),
        (f"about = 'x'\nmetrics = {ROW}", "lacks the key mine.groups"),
        ("about = 'x'\ngroups = {}\nmetrics = 'psnr'", "mine.metrics: input should be a list"),
        ("about = 'x'\ngroups = {}\nmetrics = []", "mine.metrics"),
        ("about = 'x'\ngroups = {}\nmetrics = ['psnr']", "mine.metrics.0: input should be a table"),
        ("about = 'x'\ngroups = {}\nmetrics = [{ name = 'psnrr' }]", "mine.metrics.0.name: there is no metric"),
        ("about = 'x'\ngroups = {}\nmetrics = [{ name = 'psnr', crop = '4' }]", "mine.metrics.0.crop: input"),
        ("about = 'x'\ngroups = {}\nmetrics = [{ name = 'psnr', channel = 'y' }]", "mine.metrics.0.channel: input"),
        ("about = 'x'\ngroups = {}\nmetrics = [{ name = 'niqe', channel = 'rgb' }]", "channel: niqe has none"),
        ("about = 'x'\ngroups = {}\nmetrics = [{ name = 'niqe', asked = true }]", "unknown key mine.metrics.0.asked"),
        ("about = 'x'\ngroups = {}\nmetrics = [{ name = 'niqe' }, { name = 'niqe' }]", "metrics: niqe is there twice"),
    ],
)
def test_a_fault_of_a_profile_is_one_sentence(
    content: str, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "profiles.toml"
    monkeypatch.setattr(profiles, "PROFILES_FILE", file)
    file.write_text(f"[mine]\n{content}\n")
    if told is None:
        assert profiles.load_profile("mine").groups == {"all": ("psnr",)}
        return
    with pytest.raises(ConfigError) as raised:
        profiles.load_profile("mine")
    assert str(raised.value).startswith(str(file))
    assert told.lower() in str(raised.value).lower()


def test_the_shipped_files_mean_what_they_say() -> None:
    """Every key of every file, read by tomllib alone, against what is loaded."""

    def plain_value(value: object) -> object:
        return value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else str(value)

    def as_lists(value: object) -> object:
        return json.loads(json.dumps(value, default=plain_value))

    for name in adapters.adapter_names():
        content = tomllib.loads((adapters.ADAPTER_FILES / f"{name}.toml").read_text())
        loaded = as_lists(adapters.load_adapter(name).model_dump())
        content["stage"] = loaded["stage"] | content.get("stage", {})
        assert loaded == loaded | content | {"name": name}
    for name in suites.suite_names():
        content = tomllib.loads((suites.SUITE_FILES / f"{name}.toml").read_text())
        loaded = as_lists(asdict(suites.load_suite(name, None)))
        pins = json.loads((suites.SUITE_FILES / content.pop("pins")).read_text()) if "pins" in content else {}
        content |= {"version": str(content["version"]), "has_gt": content.pop("gt"), "pins": pins}
        if "ids" in content:
            assert content.pop("ids") == "{001..250}"
            content["ids"] = [f"{number:03d}" for number in range(1, 251)]
        content.setdefault("ids", list(pins) or None)
        content.setdefault("ids_verified", bool(pins))
        assert loaded == loaded | content
    tables = tomllib.loads(profiles.PROFILES_FILE.read_text())
    assert list(tables) == profiles.profile_names()
    for name, table in tables.items():
        profile = profiles.load_profile(name)
        assert (profile.about, as_lists(profile.groups)) == (table["about"], table["groups"])
        plain = {"channel": None, "crop": 0, "ranked": True, "asked": False, "draw": 0}
        assert [asdict(spec) for spec in profile.metrics] == [plain | row for row in table["metrics"]]
