"""Manifests of strangers: what no version writes is damage, whatever its own checksum says, and is copied nowhere."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from lucidflux_data.errors import VerificationError
from lucidflux_data.shards.shard import MANIFEST, read_manifest, seal
from lucidflux_data.storage.folder import Folder

ENTRY = {"name": "hq-000000.tar", "samples": 1, "bytes": 10240, "sha256": "a" * 64, "index_sha256": "b" * 64}
PLAIN = {
    "schema_version": 1,
    "digests": {"plan": "x"},
    "samples": 1,
    "bytes": 10240,
    "urls": "hq-000000.tar",
    "content_sha256": "c" * 64,
    "shards": [ENTRY],
}
CODE = 'x"); import os  # `</script>\n# heading'


def read(folder: Path, content: dict[str, Any]) -> object:
    (folder / MANIFEST).write_bytes(seal(content))
    return read_manifest(Folder(folder))


@pytest.mark.parametrize(
    "odd",
    [
        {"urls": CODE},
        {"urls": "hq-{000000..000001}.tar"},
        {"content_sha256": CODE},
        {"bytes": "x"},
        {"firewall": [CODE]},
        {"firewall": {"checked": True}},
        {"firewall": {"measure": "x", "checked": {}, "partly_checked": {}}},
        {"stripped": CODE},
        *({"shards": [ENTRY | {name: CODE}]} for name in ENTRY),
        {"shards": [ENTRY | {"name": "../hq-000000.tar"}]},
        {"shards": [ENTRY | {"name": "hq-000000.index.parquet"}]},
        {"shards": [CODE]},
        {"schema_version": [CODE]},
        {"schema_version": None},
        {"samples": True},
        {"digests": {"plan": None}},
        {"stripped": {"tags": 3, "images": 1, "not_looked_into": {}}},
        {"forgetting": CODE},
    ],
)
def test_what_no_version_writes_is_damage(tmp_path: Path, odd: dict[str, Any]) -> None:
    with pytest.raises(VerificationError, match=r"manifest\.json is damaged"):
        read(tmp_path, PLAIN | odd)


def test_what_versions_write_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, PLAIN)["urls"] == "hq-000000.tar"
    several = copy.deepcopy(PLAIN)
    several["shards"].append(ENTRY | {"name": "hq-000001.tar"})
    assert read(tmp_path, several | {"urls": "hq-{000000..000001}.tar"})
    assert read(tmp_path, PLAIN | {"shards": [], "urls": "", "samples": 0})
    assert read(tmp_path, PLAIN | {"firewall": {"checked": {"suite": "d" * 64}}})
