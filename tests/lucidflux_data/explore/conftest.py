"""Pages of runs, open in a real Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

from lucidflux_data.explore.page import make_explore
from lucidflux_data.storage.folder import Folder
from tests.support import chromium
from tests.support.here import select_into


@pytest.fixture(scope="session")
def photos(candidates: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's candidates, the large ones made smaller, and copies of a photo that near-duplicates find."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    folder.mkdir()
    for path in sorted(candidates.iterdir()):
        image = cv2.imread(str(path)) if path.exists() and "planted" not in path.name else None
        if image is not None:
            scale = min(1.0, 360 / max(image.shape))
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(folder / path.with_suffix(".png").name), image)
        elif "pixels" not in path.name:
            shutil.copyfile(path, folder / path.name, follow_symlinks=False)
    coffee = cv2.imread(str(folder / "coffee.png"))
    shutil.copyfile(folder / "coffee.png", folder / "coffee-again.png")
    cv2.imwrite(str(folder / "coffee-flipped.jpg"), coffee[:, ::-1])
    smaller = cv2.resize(coffee, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(folder / "coffee-smaller.png"), smaller)
    return folder


@pytest.fixture(scope="session")
def half(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best half by NIQE of what the rules of the preset leave."""
    return select_into(photos, tmp_path_factory.mktemp("half") / "a run", "iqa.metric=niqe", "cut.top_fraction=0.5")


@pytest.fixture(scope="session")
def explore(tab: chromium.Page) -> Callable[..., dict[str, Any]]:
    """Writes the page of a run into it, once, opens it, waits until it has drawn itself. Gives what `make_explore`
    says."""

    made: dict[Path, dict[str, Any]] = {}

    def opened(run: Path, *more: Any, fragment: str = "") -> dict[str, Any]:
        path = run / "explore.html"
        if path not in made:
            data, made[path] = make_explore(Folder(str(run)), str(run), *more)
            path.write_bytes(data)
        tab.open_url("about:blank")  # a page that differs in its fragment alone would not be loaded again
        tab.open_url(path.absolute().as_uri() + fragment)
        look = "const look = () => document.documentElement?.dataset.ready ? done(true) : setTimeout(look, 20)"
        ready = f"new Promise(done => {{ {look}; look(); }})"
        assert tab.value(ready)
        return made[path]

    return opened
