"""The photos of the package are those that its README tells the licences of, and scikit-image's bytes."""

from __future__ import annotations

import re
from pathlib import Path

from lucidflux_data.sources.bundled import bundled_photos

FREE = ("CC0", "public domain")


def test_each_photo_is_told_with_a_free_licence_and_has_the_bytes_of_its_source(photo_paths: list[Path]) -> None:
    photos = bundled_photos()
    rows = re.findall(r"^\| ([\w.]+) \|.*\| (.+) \|$", (photos[0].parent / "README.md").read_text(), re.MULTILINE)
    assert [name for name, _ in rows[1:]] == [path.name for path in photos]
    assert {licence for _, licence in rows[1:]} <= set(FREE)
    source = {path.name: path.read_bytes() for path in photo_paths}
    assert [path.name for path in photos if path.read_bytes() != source[path.name]] == []
    assert sum(path.stat().st_size for path in photos) < 3.5e6
