"""The proxy: a lightly restored image from SwinIR (Liang et al. 2021), as the prior that the second branch sees.

    B x 3 x H x W in [0, 1] -> unshuffle by 8 -> convolution -> residual groups of shifted-window attention
                            -> three nearest x2 and convolutions -> B x 3 x H x W

The layout and the parameter names are those of DiffBIR's general SwinIR (15,792,587 parameters), which LucidFlux's
weights were trained with; its derived tables (position index, attention masks) are computed here, not stored. Any size
is taken: sides are reflected up to multiples of 64 (8 pixels a token, 8 tokens a window) and cut back.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from lucidflux_model.network.tiling import pad_reflect, run_tiled

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, as in EDSR and everything after it
UNSHUFFLE = 8
UPSAMPLED = 64  # channels of the reconstruction


@functools.lru_cache(maxsize=8)
def position_index(window: int) -> Tensor:
    """(w^2) x (w^2) int64: for two tokens of a window, the row of the bias table of their offset."""
    steps = torch.arange(window)
    rows, columns = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    down = rows[:, None] - rows[None] + window - 1
    right = columns[:, None] - columns[None] + window - 1
    return down * (2 * window - 1) + right


@functools.lru_cache(maxsize=32)
def attention_mask(rows: int, columns: int, window: int) -> Tensor:
    """windows x (w^2) x (w^2): 0 where two tokens of a shifted window come from one region of the image, else -100."""
    region = torch.zeros(rows, columns)
    shift = window // 2
    for index, (top, bottom) in enumerate(((0, -window), (-window, -shift), (-shift, rows))):
        for second, (left, right) in enumerate(((0, -window), (-window, -shift), (-shift, columns))):
            region[top:bottom, left:right] = 3 * index + second
    regions = to_windows(region[None, ..., None], window).squeeze(-1)
    return torch.where(regions[:, :, None] == regions[:, None, :], 0.0, -100.0)


def to_windows(grid: Tensor, window: int) -> Tensor:
    """B x H x W x C -> (B H/w W/w) x w^2 x C, windows row by row."""
    batch, rows, columns, channels = grid.shape
    grid = grid.view(batch, rows // window, window, columns // window, window, channels)
    return grid.transpose(2, 3).reshape(-1, window * window, channels)


def from_windows(windows: Tensor, window: int, rows: int, columns: int) -> Tensor:
    """The inverse of `to_windows`."""
    grid = windows.view(-1, rows // window, columns // window, window, window, windows.shape[-1])
    return grid.transpose(2, 3).reshape(-1, rows, columns, windows.shape[-1])


class WindowAttention(nn.Module):
    """Attention inside each window, with a learned bias for each relative position."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """`windows`: (B n) x w^2 x C; `mask`: n x w^2 x w^2."""
        count, tokens, dim = windows.shape
        query, key, value = self.qkv(windows).view(count, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        index = position_index(self.window).to(windows.device)
        bias = self.relative_position_bias_table[index.flatten()].view(tokens, tokens, -1).permute(2, 0, 1)[None]
        if mask is not None:
            bias = (bias + mask.to(bias)[:, None]).repeat(count // len(mask), 1, 1, 1)
        attended = F.scaled_dot_product_attention(query, key, value, bias)
        return self.proj(attended.transpose(1, 2).reshape(count, tokens, dim))


class WindowBlock(nn.Module):
    """Window attention and an MLP, each with its residual; every second block has its windows shifted by half."""

    def __init__(self, dim: int, heads: int, window: int, mlp_ratio: float, shifted: bool) -> None:
        super().__init__()
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})

    def forward(self, grid: Tensor) -> Tensor:
        """B x H x W x C of tokens, sides multiples of the window."""
        rows, columns = grid.shape[1:3]
        shifted = torch.roll(self.norm1(grid), (-self.shift, -self.shift), (1, 2))
        mask = attention_mask(rows, columns, self.window) if self.shift else None
        attended = self.attn(to_windows(shifted, self.window), mask)
        attended = from_windows(attended, self.window, rows, columns)
        grid = grid + torch.roll(attended, (self.shift, self.shift), (1, 2))
        return grid + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(grid))))


class ResidualGroup(nn.Module):
    """Window blocks, plain and shifted in turn, a convolution, and a residual over all."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, mlp_ratio: float) -> None:
        super().__init__()
        blocks = nn.ModuleList(WindowBlock(dim, heads, window, mlp_ratio, bool(i % 2)) for i in range(depth))
        self.residual_group = nn.ModuleDict({"blocks": blocks})
        self.conv = nn.Conv2d(dim, dim, 3, 1, 1)

    def forward(self, grid: Tensor) -> Tensor:
        out = grid
        for block in self.residual_group["blocks"]:
            out = block(out)
        return self.conv(out.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) + grid


class SwinIRProxy(ModelMixin, ConfigMixin):
    """SwinIR at constant size, as DiffBIR ships it."""

    @register_to_config
    def __init__(
        self,
        embed_dim: int = 180,
        depths: Sequence[int] = (6,) * 8,
        num_heads: Sequence[int] = (6,) * 8,
        window_size: int = 8,
        mlp_ratio: float = 2,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.conv_first = nn.Sequential(nn.PixelUnshuffle(UNSHUFFLE), nn.Conv2d(3 * UNSHUFFLE**2, embed_dim, 3, 1, 1))
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(embed_dim)})
        self.layers = nn.ModuleList(
            ResidualGroup(embed_dim, depth, heads, window_size, mlp_ratio)
            for depth, heads in zip(depths, num_heads, strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = nn.Conv2d(embed_dim, embed_dim, 3, 1, 1)
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(embed_dim, UPSAMPLED, 3, 1, 1), nn.LeakyReLU())
        self.conv_up1, self.conv_up2, self.conv_up3 = (nn.Conv2d(UPSAMPLED, UPSAMPLED, 3, 1, 1) for _ in range(3))
        self.conv_hr = nn.Conv2d(UPSAMPLED, UPSAMPLED, 3, 1, 1)
        self.conv_last = nn.Conv2d(UPSAMPLED, 3, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """B x 3 x H x W, nominally in [0, 1], in the dtype of the weights. The result is not clamped."""
        height, width = image.shape[2:]
        mean = image.new_tensor(RGB_MEAN)[:, None, None]
        padded = pad_reflect(image - mean, UNSHUFFLE * self.window_size)
        first = self.conv_first(padded)
        grid = self.patch_embed["norm"](first.permute(0, 2, 3, 1))
        for layer in self.layers:
            grid = layer(grid)
        features = self.conv_after_body(self.norm(grid).permute(0, 3, 1, 2)) + first
        features = self.conv_before_upsample(features)
        for convolution in (self.conv_up1, self.conv_up2, self.conv_up3):
            doubled = F.interpolate(features, scale_factor=2, mode="nearest")
            features = F.leaky_relu(convolution(doubled), 0.2)
        features = self.conv_last(F.leaky_relu(self.conv_hr(features), 0.2))
        return features[..., :height, :width] + mean

    def restore(self, image: Tensor, tile: int = 1024, overlap: int = 128) -> Tensor:
        """As `forward`, clamped to [0, 1], in tiles where a side is longer than `tile` pixels (0: never).

        `tile` and `overlap` are multiples of 64, so that the windows of a tile are those of the whole image.
        """
        height, width = image.shape[2:]
        if not tile or max(height, width) <= tile:
            return self(image).clamp(0, 1)
        window = UNSHUFFLE * self.window_size
        restored = run_tiled(self, pad_reflect(image, window), tile, overlap, window)
        return restored[..., :height, :width].clamp(0, 1)
