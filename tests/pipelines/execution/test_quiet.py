"""What image libraries print of damaged files reaches no terminal: each failure has a sentence of ours."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lucidflux_data.images import decode
from tests.support.odd_sources import jpeg


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG that libjpeg complains of, and reads; a PNG of which libpng does, and does not."""
    folder = tmp_path_factory.mktemp("noisy")
    for number in range(3):
        data = jpeg(number, 320, 320)
        (folder / f"{number}.jpg").write_bytes(data[:-2] + b"\x00\x12\x34\x56" * 4 + data[-2:])
    png = bytearray(cv2.imencode(".png", np.zeros((300, 300, 3), np.uint8))[1].tobytes())
    png[60] ^= 255
    (folder / "damaged.png").write_bytes(png)
    return folder


def test_no_job_lets_a_library_speak(noisy: Path, data_command, tmp_path: Path, capfd) -> None:
    decode((noisy / "0.jpg").read_bytes())
    assert "Corrupt JPEG data" in capfd.readouterr().err, "the library no longer complains: take another file"
    loose = ("rules.min_laplacian_variance=0", "rules.max_laplacian_variance=1e12", "rules.max_flat_fraction=1")
    settings = [word for setting in loose for word in ("--set", setting)]
    where = ("--executor", "local", "--num-cpus", 1)
    for command in (
        ("filter", noisy, "--out", tmp_path / "run", "--iqa", "none", *settings, *where),
        ("report", tmp_path / "run"),
        ("synthesize", noisy, "--out", tmp_path / "pairs", "--size", 192, *where),
        ("explain", tmp_path / "run", "0.jpg"),
    ):
        done = data_command(*command)
        assert done.returncode == 0, done.stderr
        native = capfd.readouterr().err
        assert native == "", command
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/jpeg") >= 3


def test_a_picture_to_restore_is_decoded_where_nothing_is_heard(noisy: Path, capfd) -> None:
    restoring = pytest.importorskip("lucidflux_model.inference.restoring")
    pixels = restoring._decoded(noisy / "0.jpg")
    assert capfd.readouterr().err == ""
    assert np.array_equal(pixels, decode((noisy / "0.jpg").read_bytes()))
