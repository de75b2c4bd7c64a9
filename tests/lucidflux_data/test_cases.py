"""Situations that people met in public, remade small: each file and the pixels, or the reason, that must come out."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest

from lucidflux_data.images import ImageError, decode_full, probe
from tests.support.paths import DATA

FOLDER = DATA / "cases"
CASES = list(csv.reader((FOLDER / "images.tsv").read_text().splitlines()[1:], delimiter="\t"))


@pytest.mark.parametrize(("name", "outcome", "tolerance"), [case[:3] for case in CASES], ids=[c[0] for c in CASES])
def test_the_right_pixels_or_the_true_reason(name: str, outcome: str, tolerance: str) -> None:
    data = (FOLDER / "images" / name).read_bytes()
    if outcome.startswith("fail:"):
        for read in (decode_full, probe):
            with pytest.raises(ImageError) as caught:
                read(data)
            assert caught.value.reason == outcome.removeprefix("fail:")
        return
    image = decode_full(data)
    expected = cv2.imread(str(FOLDER / "expected" / f"{name}.png"))[..., ::-1].astype(int)
    assert image.pixels.shape == expected.shape
    assert (image.header.height, image.header.width) == expected.shape[:2]
    off = np.abs(image.pixels - expected).max(axis=2)
    # 8 bits of L*a*b* do not tell all dark levels of a colour at the rim of sRGB apart: 1.4% of the pixels.
    assert np.mean(off > int(tolerance)) <= (0.02 if "lab" in name else 0)
