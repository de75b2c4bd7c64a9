"""Leases as other processes and other machines leave them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict

from lucidflux_data.process import Process
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.lease import NAME


def write_lease(place: str, holder: Process | None, age_s: float = 0.0) -> None:
    content = {"token": "of another", "command": "lucidflux-data forget", "since": time.time() - age_s}
    data = json.dumps(content | {"holder": asdict(holder)}).encode() if holder else b"{half of"
    folder = Folder(place)
    folder.publish(NAME, data)
    if folder.is_local:
        os.utime(folder.path(NAME), (time.time() - age_s, time.time() - age_s))


def foreign() -> Process:
    return Process("node-7", "00c0ffee00c0ffee", "another boot", "pid:[1]", 4242, time.time() - 1000)
