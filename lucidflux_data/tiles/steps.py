"""`artifacts.blockiness` in one pass over the pixels: equal sums of integers, so the same value to the last bit."""

from __future__ import annotations

import numpy as np

from lucidflux_data.jit import compiled

LEAST_PX = 64
STRONGEST_STEP = 32


def blockiness(luma: np.ndarray) -> float:
    """Of uint8 HxW luma, C-contiguous."""
    height, width = luma.shape
    across, down = np.zeros(max(0, width - 3), np.int32), np.zeros(max(0, height - 3), np.int32)
    _add_steps(luma, across, down)
    return max(_grid_ratio(across, height, width), _grid_ratio(down, width, height))


def _grid_ratio(sums: np.ndarray, lines: int, length: int) -> float:
    """From the sums over `lines` of the steps along lines of `length` pixels."""
    if length < LEAST_PX:
        return 1.0
    columns = sums / lines
    phases = np.array([columns[phase::8].mean() for phase in range(8)])
    strongest = int(phases.argmax())
    rest = np.median(np.delete(phases, [(strongest - 1) % 8, strongest, (strongest + 1) % 8]))
    return float((phases[strongest] + 0.05) / (rest + 0.05))


@compiled
def _add_steps(luma: np.ndarray, across: np.ndarray, down: np.ndarray) -> None:
    """The second differences 2 s[i+1] - s[i] - s[i+2] of neighbouring steps, their size cut off at 32."""
    height, width = luma.shape
    most = np.int16(STRONGEST_STEP)
    for y in range(height):
        row = luma[y]
        for x in range(width - 3):
            inner = np.int16(np.int16(row[x + 2]) - np.int16(row[x + 1]))
            outer = np.int16(np.int16(row[x]) - np.int16(row[x + 3]))
            value = np.int16(np.int16(np.int16(3) * inner) + outer)
            across[x] += np.int32(min(abs(value), most))
    for y in range(height - 3):
        first, second, third, fourth = luma[y], luma[y + 1], luma[y + 2], luma[y + 3]
        total = np.int32(0)
        for x in range(width):
            inner = np.int16(np.int16(third[x]) - np.int16(second[x]))
            outer = np.int16(np.int16(first[x]) - np.int16(fourth[x]))
            value = np.int16(np.int16(np.int16(3) * inner) + outer)
            total = np.int32(total + np.int32(min(abs(value), most)))
        down[y] = total
