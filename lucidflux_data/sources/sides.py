"""The json beside an image, from anybody: JSON of bounded size and depth, or nothing."""

from __future__ import annotations

import json
from typing import Any

MAX_SIDE_BYTES = 1 << 20  # a json beside an image that is larger than this is not side data
MAX_DEPTH = 64  # of objects and lists inside one another; Python's own parser ends at about a thousand


def side_text(data: bytes) -> str | None:
    """The text of side data as it stands there; None for what is too large, too deep, or no JSON."""
    if len(data) > MAX_SIDE_BYTES:
        return None
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text)
    except (ValueError, RecursionError):  # however deep it is
        return None
    return None if is_deep(value) else text


def is_deep(value: Any) -> bool:
    """Whether objects and lists stand inside one another more than MAX_DEPTH times."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for outer in level if isinstance(outer, dict | list) for item in _items(outer)]
        if not level:
            return False
    return True


def _items(outer: dict[str, Any] | list[Any]) -> list[Any]:
    return list(outer.values()) if isinstance(outer, dict) else outer
