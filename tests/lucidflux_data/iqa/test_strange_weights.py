"""Weight files that strangers made: what they hold beside tensors is not called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lucidflux_data.errors import VerificationError
from lucidflux_data.iqa import pyiqa_models

pytest.importorskip("pyiqa")


class Calls:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("before", ["0", "1"])
def test_nothing_in_a_weight_file_is_called(before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the user's environment asks torch to load anything."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", before)
    place, canary = tmp_path / "hub" / "pyiqa", tmp_path / "canary"
    place.mkdir(parents=True)
    torch.save({"params": Calls(canary)}, place / "musiq_koniq_ckpt-e95806b9.pth")
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(place), raising=False)
    with pytest.raises(VerificationError, match="musiq was not loaded: one of its weight files holds something else"):
        pyiqa_models.pyiqa_model("musiq", "cpu")
    assert not canary.exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == before
