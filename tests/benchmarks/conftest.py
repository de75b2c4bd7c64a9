"""Real photos as a benchmark: references, inputs, and methods that differ for a reason; one scored results folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.support.paths import LUCIDFLUX
from tests.support.photos import skimage_photos

PHOTOS = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins")
SIDE = 192


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`gt/` (192x192), `lq/` (48x48) and `methods/` (nearest, bicubic, lanczos, blurred) of six photos, as PNG."""
    from lucidflux_data.images import decode

    root = tmp_path_factory.mktemp("photos")
    by_name = {path.stem: path for path in skimage_photos()}
    filters = {name: getattr(Image.Resampling, name.upper()) for name in ("nearest", "bicubic", "lanczos")}
    for place in ("gt", "lq", *(f"methods/{name}" for name in (*filters, "blurred"))):
        (root / place).mkdir(parents=True)
    for name in PHOTOS:
        hq = decode(by_name[name].read_bytes())[40 : 40 + SIDE, 60 : 60 + SIDE]
        small = Image.fromarray(hq).resize((SIDE // 4, SIDE // 4), Image.Resampling.BICUBIC)
        Image.fromarray(hq).save(root / "gt" / f"{name}.png")
        small.save(root / "lq" / f"{name}.png")
        for method, resample in filters.items():
            small.resize((SIDE, SIDE), resample).save(root / "methods" / method / f"{name}.png")
        blurred = cv2.GaussianBlur(hq, (0, 0), 2)
        Image.fromarray(np.ascontiguousarray(blurred)).save(root / "methods" / "blurred" / f"{name}.png")
    return root


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory):
    """Runs the installed `lucidflux bench` as a user would, with caches and suites of its own."""
    home = tmp_path_factory.mktemp("home")

    own = {"XDG_CACHE_HOME": str(home), "LUCIDFLUX_SUITES": str(home / "suites"), "COLUMNS": "160"}

    def call(*arguments: object, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [LUCIDFLUX, "bench", *map(str, arguments)]
        env = os.environ | own | variables
        return subprocess.run(command, capture_output=True, text=True, timeout=240, env=env, cwd=cwd)

    call.home = home
    call.variables = own
    return call


@pytest.fixture
def bench_here(bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """The same command in this process, for what ends before any worker starts."""
    import cli

    def call(*arguments: object, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        code = 0
        with monkeypatch.context() as patch:
            for name, value in (bench.variables | variables).items():
                patch.setenv(name, value)
            if cwd is not None:
                patch.chdir(cwd)
            patch.setattr(sys, "argv", ["lucidflux", "bench", *map(str, arguments)])
            try:
                cli.lucidflux_main()
            except SystemExit as stop:
                code = int(stop.code or 0)
        printed = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, printed.out, printed.err)

    return call


@pytest.fixture(scope="session")
def scored(photos: Path, bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of the four methods: niqe, psnr, ssim and lr_consistency, with one overall rank."""
    out = tmp_path_factory.mktemp("scored") / "results"
    folders = [photos / "methods" / name for name in ("nearest", "bicubic", "lanczos", "blurred")]
    inputs = ["--inputs", photos / "lq", "--gt", photos / "gt", "--metrics", "niqe,psnr,ssim,lr_consistency"]
    done = bench("--outputs", *folders, *inputs, "--group", "fidelity=psnr,ssim", "--out", out, "--num-cpus", 1)
    assert done.returncode == 0, done.stderr
    return out
