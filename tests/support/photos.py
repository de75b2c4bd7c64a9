"""Photos that scikit-image carries, and small ones for tests whose subject is not what stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import skimage


def skimage_photos() -> list[Path]:
    """The pictures of scikit-image's package, in order of name: more, and odder ones, than the project ships."""
    folder = Path(skimage.__file__).parent / "data"
    return sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg", ".jpeg", ".tif", ".gif"))


def write_small(folder: Path, photos: Sequence[Path], width: int, height: int) -> Path:
    """`00.jpg`, `01.jpg`, ... in a new folder: the photos at this size in pixels. Gives the folder."""
    folder.mkdir()
    for number, path in enumerate(photos):
        image = cv2.resize(cv2.imread(str(path)), (width, height), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{number:02d}.jpg"), image)
    return folder


def write_crops(folder: Path, photos: Sequence[Path]) -> Path:
    """`0.jpg` to `5.jpg`: six squares of 110 pixels cut from the photo of a cat. Gives the folder."""
    image = cv2.imread(str(next(path for path in photos if path.stem == "chelsea")))
    for number in range(6):
        cv2.imwrite(str(folder / f"{number}.jpg"), image[20 * number :][:110, :110])
    return folder
