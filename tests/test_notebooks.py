"""The notebooks of examples/ run from the first cell to the last, and are kept without what a machine made of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.support.paths import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
# What a cell must show, by the place of its cell among those with code.
SHOWN = {
    "curate.ipynb": {
        2: "candidates</td>",
        4: "<figure>",
        5: "min_laplacian_variance",
        6: "nothing written",
        8: "shards",
    },
    "rank_and_train.ipynb": {2: "pairs:", 4: "steps, loss 0.", 5: "psnr ↑", 6: "small"},
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By nbmake, in a folder of its own; what the cells showed is read from the notebook that it writes."""
    pytest.importorskip("torch")
    pytest.importorskip("nbmake")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "here").mkdir()
    mine = Path(shutil.copy(path, tmp_path / "here"))
    options = ["--nbmake", "--overwrite", "--nbmake-timeout=200", "-c", os.devnull, "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", *options, str(mine)]
    done = subprocess.run(command, cwd=mine.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    code = [cell for cell in nbformat.read(mine, as_version=4).cells if cell.cell_type == "code"]
    for place, told in SHOWN[path.name].items():
        assert told in str(code[place].outputs), code[place].source
