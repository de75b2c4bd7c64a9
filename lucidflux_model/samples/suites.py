"""A prepared benchmark suite as a source of images to validate on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from lucidflux_data.errors import InputError
from lucidflux_data.images import ImageError, upsample_lq
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.sources.reading import read_file
from lucidflux_data.storage.formats import parse_json
from lucidflux_data.storage.names import check_file_name
from lucidflux_data.storage.regular import open_regular
from lucidflux_model.samples.reading import Unreadable


class SuiteImages:
    """A suite that `lucidflux bench prepare` has laid out, to validate on: suite.json, lq/, gt/ where there are any.

    Ids are the keys; sizes may differ, and `read` gives None for the HQ of a suite without references.
    """

    def __init__(self, folder: str) -> None:
        """InputError where the folder holds no prepared suite."""
        self.folder = Path(folder)
        try:
            with open_regular(self.folder / "suite.json") as file:
                about = parse_json(file.read())
            self.name, self._scale, images = str(about["name"]), int(about["scale"]), about["images"]
        except OSError:
            raise InputError(f"{folder} is no prepared suite (no suite.json): see `lucidflux bench prepare`") from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{folder}/suite.json is damaged, or of an older version: prepare it again") from None
        self.keys = sorted(images)
        self._files = {id_: {role: image["file"] for role, image in images[id_].items()} for id_ in self.keys}
        self._sha256 = {id_: {role: image.get("sha256") for role, image in images[id_].items()} for id_ in self.keys}
        for name in (file for roles in self._files.values() for item in roles.items() for file in item):
            check_file_name(name, self.folder)
        self.references = all("gt" in roles for roles in self._files.values())

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int, epoch: int) -> str:
        return str(self.keys[index])

    def read(self, index: int, epoch: int) -> tuple[np.ndarray | None, np.ndarray]:
        """Raises Unreadable."""
        found: dict[str, np.ndarray] = {}
        for role, file in self._files[self.keys[index]].items():
            known = self._sha256[self.keys[index]][role]
            try:
                data = read_file(self.folder / role / file)
                if known is not None and hashlib.sha256(data).hexdigest() != known:
                    raise ImageError("changed", "another image than that of suite.json")
                found[role] = pixels_apart(data)
            except ImageError as error:
                raise Unreadable(f"{self.folder / role / file}: {error.detail}") from None
        hq, (height, width) = found.get("gt"), found["lq"].shape[:2]
        size = (height * self._scale, width * self._scale)
        if hq is not None and hq.shape[:2] != size:
            raise Unreadable(f"{self.folder}: gt of {self.keys[index]} is not {self._scale} times as large as its lq")
        return hq, upsample_lq(found["lq"], *size)
