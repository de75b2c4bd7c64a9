"""The photos that lie in the package: twelve that anyone may use for anything, see photos/README.md."""

from __future__ import annotations

from pathlib import Path


def bundled_photos() -> list[Path]:
    """Paths of the photos, in order of name; nothing is downloaded."""
    folder = Path(__file__).parent / "photos"
    return sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg"))
