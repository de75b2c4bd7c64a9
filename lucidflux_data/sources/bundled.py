"""The photos that scikit-image carries."""

from __future__ import annotations

from pathlib import Path

from lucidflux_data.errors import ConfigError


def bundled_photos() -> list[Path]:
    """The pictures that scikit-image ships inside its package; nothing is downloaded. ConfigError without it."""
    try:
        import skimage
    except ImportError:
        raise ConfigError("the demo takes scikit-image's photos: pip install 'lucidflux[demo]'") from None
    folder = Path(skimage.__file__).parent / "data"
    return sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg", ".jpeg", ".tif", ".gif"))
