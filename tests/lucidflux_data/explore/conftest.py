"""Pages of runs, open in a real Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lucidflux_data.explore.page import make_explore
from lucidflux_data.storage.folder import Folder
from tests.support import chromium


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    pytest.importorskip("aiohttp")
    if chromium.find() is None:
        pytest.skip("Chromium is not installed")
    opened = chromium.Page(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def explore(tab: chromium.Page) -> Callable[..., dict[str, Any]]:
    """Writes the page of a run beside it, opens it, waits until it has drawn itself. Gives what `make_explore` says."""

    def opened(run: Path, *more: Any, fragment: str = "") -> dict[str, Any]:
        data, made = make_explore(Folder(str(run)), str(run), *more)
        path = run / "explore.html"
        path.write_bytes(data)
        tab.console.clear()
        tab.requests.clear()
        tab.open_url("about:blank")  # a page that differs in its fragment alone would not be loaded again
        tab.open_url(path.absolute().as_uri() + fragment)
        look = "const look = () => document.documentElement?.dataset.ready ? done(true) : setTimeout(look, 20)"
        ready = f"new Promise(done => {{ {look}; look(); }})"
        assert tab.value(ready)
        return made

    return opened
