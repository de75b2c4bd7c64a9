"""The folder of compiled code in a shared temporary folder: numba unpickles what lies there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lucidflux_data.jit import private_folder

NAME = f"lucidflux-numba-{os.getuid()}"


def shared(path: Path) -> Path:
    path.mkdir()
    path.chmod(0o1777)
    return path


def test_a_new_folder_is_ours_alone_and_is_found_again(tmp_path: Path) -> None:
    parent = shared(tmp_path / "tmp")
    old = os.umask(0)
    try:
        made = private_folder(str(parent))
    finally:
        os.umask(old)
    assert made == str(parent / NAME)
    assert stat.S_IMODE(os.stat(made).st_mode) == 0o700
    assert private_folder(str(parent)) == made


@pytest.mark.parametrize(
    "laid", ["link", "dangling link", "file", "open to all", "of another", "unsafe parent", "none"]
)
def test_what_somebody_laid_there_is_not_used(tmp_path: Path, laid: str) -> None:
    parent = shared(tmp_path / "tmp")
    place = parent / NAME
    (tmp_path / "theirs").mkdir(mode=0o700)
    if laid == "link":
        place.symlink_to(tmp_path / "theirs")
    elif laid == "dangling link":
        place.symlink_to(tmp_path / "nowhere")
    elif laid == "file":
        place.write_bytes(b"")
    elif laid == "open to all":
        place.mkdir()
        place.chmod(0o777)
    elif laid == "of another":
        place.mkdir(mode=0o700)
        if os.getuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(place, 12345, 12345)
    elif laid == "unsafe parent":
        parent.chmod(0o777)
    elif laid == "none":
        parent.rmdir()
    assert private_folder(str(parent)) is None
    assert not (tmp_path / "nowhere").exists()


def test_functions_are_compiled_without_a_cache_where_there_is_no_place(tmp_path: Path) -> None:
    """The planted folder holds a file that would run, were it unpickled."""
    parent = shared(tmp_path / "tmp")
    (tmp_path / "theirs").mkdir()
    (parent / NAME).symlink_to(tmp_path / "theirs")
    module = tmp_path / "code.py"
    code = (
        "import sys, numba, tempfile\n"
        "def no_place(cls, *a, **k): return None\n"
        "from numba.core import caching\n"
        "for locator in caching.CacheImpl._locator_classes: locator.from_function = classmethod(no_place)\n"
        "from lucidflux_data.jit import compiled\n"
        "assert compiled(lambda x: x + 1)(2) == 3\n"
    )
    module.write_text(code)
    environment = {**os.environ, "TMPDIR": str(parent), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, module], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "theirs").iterdir()) == []
