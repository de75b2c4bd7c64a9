"""Tiling, proxy, colour, semantic input and schedules, each against its definition or a peer library."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from lucidflux_data.errors import ConfigError
from lucidflux_data.images import upsample_lq
from lucidflux_model.inference.color import align_colors, wavelet_split
from lucidflux_model.network.build import build_random
from lucidflux_model.network.encode import siglip_input
from lucidflux_model.network.proxy import ResidualGroup
from lucidflux_model.network.schedule import make_scheduler, schedule_length, set_sigmas
from lucidflux_model.network.tiling import blend, pad_reflect, starts, tile_boxes


@pytest.fixture(scope="module")
def photo(photo_paths) -> torch.Tensor:
    """1 x 3 x 256 x 384 in [0, 1]."""
    path = next(path for path in photo_paths if path.stem == "astronaut")
    image = Image.open(path).convert("RGB").crop((40, 30, 424, 286))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


# The two lists for 20 steps at 1024 x 1024: what the published code visits, and what its formula gives at 4096 tokens.
PUBLISHED = (
    "1 .96808 .93491 .90044 .86457 .82723 .78831 .74773 .70536 .66109 .61479 .56631 .51550 .46219 .40618 .34726 "
    ".28520 .21975 .15062 .07749 0"
)
FLUX = (
    "1 .98361 .96601 .94708 .92665 .90453 .88051 .85434 .82570 .79424 .75951 .72098 .67799 .62971 .57510 .51284 "
    ".44120 .35787 .25976 .14253 0"
)


@pytest.mark.parametrize(("schedule", "length", "listed"), [("published", 64, PUBLISHED), ("flux", 4096, FLUX)])
def test_schedules_at_1024(schedule: str, length: int, listed: str) -> None:
    assert schedule_length(schedule, 1024, 1024) == length
    sigmas = set_sigmas(make_scheduler(), 20, length).double().numpy()
    assert np.abs(sigmas - [float(value) for value in listed.split()]).max() <= 1e-5
    mu = 0.5 + (length - 256) * 0.65 / 3840
    formula = [math.exp(mu) / (math.exp(mu) + 1 / t - 1) for t in np.linspace(1, 0, 21)[:-1]]
    assert np.abs(sigmas[:-1] - formula).max() < 1e-6


def test_another_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="published or flux"):
        schedule_length("karras", 1024, 1024)


@pytest.mark.parametrize("shape", [(64, 64), (61, 37), (16, 200)])
def test_wavelet_split_sums_to_the_image(photo: torch.Tensor, shape: tuple[int, int]) -> None:
    image = photo[..., : shape[0], : shape[1]]
    high, low = wavelet_split(image)
    assert (high + low - image).abs().max() < 1e-6
    assert (align_colors(image, image) - image).abs().max() < 1e-6


def test_wavelet_low_is_the_blur_written_out() -> None:
    """One level by loops: the binomial kernel spread by 2^level, edges repeated."""
    image = torch.rand(1, 1, 12, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = image[0, 0].numpy()
    weights = {-1: 0.25, 0: 0.5, 1: 0.25}
    for level in range(3):
        step, before = 2**level, expected
        expected = np.zeros_like(before)
        for y in range(12):
            for x in range(9):
                for dy, wy in weights.items():
                    for dx, wx in weights.items():
                        row, column = min(max(y + dy * step, 0), 11), min(max(x + dx * step, 0), 8)
                        expected[y, x] += wy * wx * before[row, column]
    assert np.abs(wavelet_split(image, 3)[1][0, 0].numpy() - expected).max() < 1e-12


def test_colours_come_from_the_source_and_detail_stays(photo: torch.Tensor) -> None:
    tinted = photo * torch.tensor([0.6, 0.9, 1.0])[:, None, None] + 0.05
    aligned = align_colors(tinted, photo)
    assert (aligned.mean((2, 3)) - photo.mean((2, 3))).abs().max() < 0.01
    assert torch.allclose(wavelet_split(aligned - photo)[0], wavelet_split(tinted - photo)[0], atol=0.15)


@pytest.mark.parametrize(("length", "tile", "overlap"), [(64, 64, 8), (65, 64, 8), (200, 64, 16), (256, 64, 32)])
def test_tiles_cover_with_the_overlap_asked_for(length: int, tile: int, overlap: int) -> None:
    firsts = starts(length, tile, overlap, 1)
    assert firsts[0] == 0
    assert firsts[-1] + tile == max(length, tile)
    assert all(before + tile - after >= overlap for before, after in itertools.pairwise(firsts))


@pytest.mark.parametrize(("tile", "overlap"), [(64, 16), (96, 32), (128, 0), (256, 64)])
def test_blended_tiles_of_an_image_are_the_image(photo: torch.Tensor, tile: int, overlap: int) -> None:
    for image in (photo, torch.full_like(photo, 0.3)):
        boxes = tile_boxes(256, 384, tile, overlap)
        parts = (image[..., box.top : box.bottom, box.left : box.right] for box in boxes)
        assert (blend(parts, boxes, image.shape, overlap) - image).abs().max() < 1e-6


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (5, 3), (64, 64), (65, 100)])
def test_padding_reflects_as_numpy_does(shape: tuple[int, int]) -> None:
    image = torch.arange(shape[0] * shape[1], dtype=torch.float32).view(1, 1, *shape)
    padded = pad_reflect(image, 64)
    assert padded.shape[2] % 64 == 0
    assert padded.shape[3] % 64 == 0
    down, right = padded.shape[2] - shape[0], padded.shape[3] - shape[1]
    if min(shape) > 1:
        assert np.array_equal(padded[0, 0].numpy(), np.pad(image[0, 0].numpy(), ((0, down), (0, right)), "reflect"))
    assert torch.equal(padded[..., : shape[0], : shape[1]], image)


@torch.no_grad()
@pytest.mark.parametrize(("rows", "columns"), [(16, 24), (8, 8), (64, 64)])
def test_a_residual_group_is_that_of_basicsr(rows: int, columns: int) -> None:
    from lucidflux_data.degradation.basicsr import import_basicsr

    import_basicsr()
    from basicsr.archs.swinir_arch import RSTB

    ours = ResidualGroup(24, 4, 3, 8, 2)
    theirs = RSTB(24, (64, 64), 4, 3, 8, mlp_ratio=2, img_size=64, patch_size=1)  # built for 64, as the published one
    generator = torch.Generator().manual_seed(0)
    for parameter in ours.parameters():
        parameter.normal_(0, 0.3, generator=generator)
    missing, unknown = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unknown
    assert all(name.endswith(("attn_mask", "relative_position_index")) for name in missing)
    grid = torch.randn(2, rows, columns, 24, generator=generator)
    expected = theirs(grid.flatten(1, 2), (rows, columns)).view_as(grid)
    assert torch.allclose(ours(grid), expected, atol=1e-4 * float(expected.abs().max()))


@pytest.fixture(scope="module")
def proxy():
    return build_random("tiny", parts=("proxy",))["proxy"]


@torch.no_grad()
def test_the_proxy_takes_sizes_that_the_published_one_refuses(proxy, photo: torch.Tensor) -> None:
    """72, 80, 96 and 100 px fail in the published code. Here they are the reflected image, cut."""
    for height, width in ((72, 80), (96, 100), (17, 64)):
        small = photo[..., :height, :width]
        assert proxy(small).shape == small.shape
        assert torch.equal(proxy(small), proxy(pad_reflect(small, 64))[..., :height, :width])


@torch.no_grad()
def test_the_proxy_in_tiles_has_no_seam(proxy, photo: torch.Tensor) -> None:
    """From column to column the difference to the untiled proxy changes by no more than 0.02 on average."""
    tiled, whole = proxy.restore(photo, 192, 64), proxy.restore(photo, 0)
    difference = (tiled - whole)[0].mean(0)
    jumps = (difference[:, 1:] - difference[:, :-1]).abs().mean(0)
    assert difference.abs().mean() < 0.01
    assert jumps.max() < 0.02
    assert torch.equal(proxy.restore(photo, 512, 64), whole)


@torch.no_grad()
def test_the_published_siglip_input_cuts_to_8_bits(photo: torch.Tensor) -> None:
    image = photo[..., :200, :300]
    cut = Image.fromarray(np.floor(image[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    resized = np.asarray(cut.resize((64, 64), Image.Resampling.BILINEAR))
    expected = torch.from_numpy(resized.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    assert torch.allclose(siglip_input(image, 64, "parity"), expected, atol=1e-6)
    assert (siglip_input(image, 64, "fast") - expected).abs().max() < 2.1 / 127.5


def test_upsample_lq_is_pillows_bicubic(photo: torch.Tensor) -> None:
    pixels = (photo[0].permute(1, 2, 0).numpy()[:40, :60] * 255).astype(np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((240, 160), Image.Resampling.BICUBIC))
    assert np.array_equal(upsample_lq(pixels, 160, 240), expected)
    assert upsample_lq(pixels, 40, 60) is pixels
