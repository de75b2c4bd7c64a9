"""References that the filter's own rules would not let into a training set: what a suite asks outputs to be like."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.measures.basic import measure
from lucidflux_data.measures.config import MeasureConfig
from lucidflux_data.selection.config import RulesConfig
from lucidflux_data.selection.rules import basic_limits


def flag_references(references: Mapping[str, bytes]) -> dict[str, str]:
    """id -> the first rule of the preset `lucidflux` that rejects a reference (blur, sharpness, flatness), of encoded
    images by id; those that pass are left out."""
    flagged = {}
    for id_, data in sorted(references.items()):
        row = measure(data, DecodeConfig(), MeasureConfig())
        values = {"min_side": min(row.get("width", 0), row.get("height", 0)), **row}
        for limit in basic_limits(RulesConfig()):
            if limit.is_outside(np.array([values.get(limit.column, np.nan)], float))[0]:
                flagged[id_] = limit.reason
                break
    return flagged
