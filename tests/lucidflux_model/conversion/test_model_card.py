"""The card of exported weights over FLUX.1-dev: base, licence, mark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lucidflux_model.conversion.model_card import is_untouched, make_model_card


@pytest.mark.parametrize("about", [{"model": "flux-dev", "files": {}, "contaminated": ["RealSR", "a|b"]}, None])
def test_the_card_names_the_non_commercial_base(about: dict[str, Any] | None, tmp_path: Path) -> None:
    """`about`: weights.json, or none as in a folder that somebody put together."""
    out = tmp_path / "lucidflux.safetensors"
    out.write_bytes(b"weights")
    if about is not None:
        (tmp_path / "weights.json").write_text(json.dumps(about))
    card = make_model_card(tmp_path, out)
    assert is_untouched(card)
    assert not is_untouched(card.replace(b"LucidFlux", b"Mine"))
    front = yaml.safe_load(card.split(b"---\n")[1])
    assert front["base_model"] == "black-forest-labs/FLUX.1-dev"
    assert front["license"] == "other"
    assert front["license_name"] == "flux-1-dev-non-commercial-license"
    text = card.decode()
    assert "**non-commercial**" in text
    if about is None:
        assert "No validation on a benchmark suite is recorded" in text
    else:
        assert r"**Validated on RealSR, a\|b**" in text
