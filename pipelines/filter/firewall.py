"""The firewall: candidates compared with the fingerprints of forbidden suites."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.images import luma
from lucidflux_data.measures import fingerprints
from pipelines.filter.rows import HEAD, REASON, Columns, _Rows

LEAK_SCHEMA = pa.schema(
    [
        *HEAD,
        pa.field("leak", pa.string()),
        pa.field("leak_tiles", pa.int32()),
        pa.field("leak_bits", pa.int32()),
        REASON,
    ]
)


class FirewallUnit(_Rows):
    """scores/firewall-*: the benchmark image that a candidate shows. `files`: of fingerprints; `measure` follows from
    them."""

    schema = LEAK_SCHEMA

    def __init__(self, limits: DecodeConfig, measure: str, files: list[bytes]) -> None:
        self.limits, self.measure, self.files = limits, measure, files
        self._firewall: fingerprints.Firewall | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_firewall": None}

    def row(self, data: bytes, pixels: np.ndarray) -> Columns:
        if self._firewall is None:
            self._firewall = fingerprints.make_firewall(self.files)
        match = self._firewall.match(hashlib.sha256(data).hexdigest(), fingerprints.fingerprint(luma(pixels)))
        if match is None:
            return {}
        return {"leak": match.image, "leak_tiles": match.tiles, "leak_bits": match.distance}
