"""Small photos for tests whose subject is not what stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2


def write_small(folder: Path, photos: Sequence[Path], width: int, height: int) -> Path:
    """`00.jpg`, `01.jpg`, ... in a new folder: the photos at this size in pixels. Gives the folder."""
    folder.mkdir()
    for number, path in enumerate(photos):
        image = cv2.resize(cv2.imread(str(path)), (width, height), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{number:02d}.jpg"), image)
    return folder
