"""Bytes and seconds as people read them."""

from __future__ import annotations

BYTES = ("kB", "MB", "GB", "TB", "PB")


def human_bytes(value: float) -> str:
    """Three significant digits of a decimal unit: 2.73 TB."""
    if value < 1000:
        return f"{value:.0f} B"
    for unit in BYTES:
        value /= 1000
        if value < 999.5 or unit == BYTES[-1]:
            break
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} {unit}"


def human_seconds(value: float) -> str:
    """The two largest units that say something: 3 h 05 min, 42 s, 0.4 s."""
    if value < 9.95:
        return f"{value:.2g} s"
    seconds = round(value)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(value / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(round(value / 3600), 24)
    return f"{days} d {hours} h"
