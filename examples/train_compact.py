"""Photos -> filter -> pairs on line -> a compact network, trained on a CPU -> ranked beside bicubic: docs/training.md.
python examples/train_compact.py PHOTOS OUT SECONDS takes a folder of photos beside the package's and holds out the
second half of both by name, as whole photos. Needs lucidflux[networks] and scipy."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.stats import ttest_1samp
from spandrel.architectures.Compact import Compact
from torch.nn.functional import interpolate, l1_loss
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cli import app, data_app
from lucidflux_data import ImageError, RealESRGANPairs, decode
from lucidflux_data.sources.bundled import bundled_photos

PRESET, SCALE, CROP, TILES, BATCH, RATE = "light", 4, 128, 20, 16, 1e-3  # a crop of the HQ in pixels, tiles a photo
WORKERS = 1  # processes that make pairs beside the one that trains


def cut_tiles(photos: list[Path], side: int, most: int, folder: str) -> None:
    """PHOTO+NUMBER.png for at most so many whole tiles of `side` pixels, which are spread over each photo."""
    for place, photo in enumerate(photos):
        try:
            image = decode(photo.read_bytes())
        except ImageError as error:
            print(f"{photo} is left out: {error}")
            continue
        rows, columns = (range(0, length - side + 1, side) for length in image.shape[:2])
        tiles = [image[y : y + side, x : x + side] for y in rows for x in columns]
        for number in np.linspace(0, len(tiles) - 1, min(most, len(tiles))).astype(int):
            Image.fromarray(tiles[number]).save(f"{folder}/{place}-{photo.stem}+{number}.png")


def make_pairs(photos: list[Path], side: int, name: str, seed: int) -> RealESRGANPairs:
    """Pairs from what the filter's rules keep of the tiles."""
    cut_tiles(photos, side, TILES, f"{name}-tiles")
    data_app(f"filter {name}-tiles --out {name} --iqa none --executor local".split(), standalone_mode=False)
    return RealESRGANPairs(name, PRESET, seed, [f"size={CROP}"])


def wall_clock(seconds: float) -> Callable[[int], float]:
    """The share of the time that is left, 0 or less at its end."""
    begun = time.monotonic()
    return lambda _steps: 1 - (time.monotonic() - begun) / seconds


def train(pairs: RealESRGANPairs, share_left: Callable[[int], float]) -> AveragedModel:
    """L1, Adam, and a rate that falls with the share that is left after so many steps, asked once an epoch, and ends at
    0. Gives the moving average of the network."""
    network = Compact(num_feat=32, num_conv=8, upscale=SCALE)
    *inner, last = (layer for layer in network.body if isinstance(layer, torch.nn.Conv2d))
    for layer in inner:  # it begins as bilinear upsampling: three features carry the input,
        layer.weight.data[:3] = layer.bias.data[:3] = 0
        layer.weight.data[range(3), range(3), 1, 1] = 1
    points = torch.eye(9).view(9, 1, 3, 3)
    spread = interpolate(points, scale_factor=SCALE, mode="bilinear") - interpolate(points, scale_factor=SCALE)
    last.weight.data[:] = last.bias.data[:] = 0  # and the last layer has bilinear less the nearest that is added
    for channel, weight in enumerate(last.weight.data.view(3, SCALE**2, -1, 3, 3)):
        weight[:, channel] = spread[:, 0, SCALE:-SCALE, SCALE:-SCALE].reshape(3, 3, -1).permute(2, 0, 1)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    loader = torch.utils.data.DataLoader(
        pairs, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=WORKERS > 0
    )
    adam, losses = torch.optim.Adam(network.parameters()), []
    while (left := share_left(len(losses))) > 0:
        pairs.set_epoch(len(losses))  # another crop and another degradation of each tile
        adam.param_groups[0]["lr"] = RATE * left
        for batch in loader:
            loss = l1_loss(network(batch["lq"] / 255), batch["hq"] / 255)
            adam.zero_grad()
            loss.backward()
            adam.step()
            average.update_parameters(network)
            losses.append(loss.item())
    print(f"{len(losses)} steps, loss {np.mean(losses[:20]):.4f} -> {np.mean(losses[-20:]):.4f}")
    return average


def main(photos: Path, out: Path, seconds: float) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the worker that makes pairs has the other core
    sources = bundled_photos(), sorted(photos.absolute().iterdir())
    for folder in ("train-tiles", "held-tiles", "lq", "hq"):
        (out / folder).mkdir(parents=True)
    os.chdir(out)
    pairs = make_pairs([one for source in sources for one in source[: len(source) // 2]], 2 * CROP, "train", 0)
    held = make_pairs([one for source in sources for one in source[len(source) // 2 :]], CROP, "held", 1)
    save_file(train(pairs, wall_clock(seconds)).module.state_dict(), "compact.safetensors")
    names = {row["key"]: row["source_key"] for row in pq.read_table("held/selected.parquet").to_pylist()}
    for kind, number in ((kind, number) for kind in ("lq", "hq") for number in range(len(held))):
        pixels = held[number][kind].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(f"{kind}/{names[held.rows[number]['key']]}")
    for method in ("bicubic", "--model compact.safetensors --device cpu"):
        app(f"bench infer {method} --inputs lq --out outputs --scale {SCALE}".split(), standalone_mode=False)
    given = ["bench", "eval", "--inputs", "lq", "--gt", "hq", "--metrics", "psnr,ssim", "--out", "bench", "--outputs"]
    app([*given, *map(str, sorted(Path("outputs").iterdir()))], standalone_mode=False)
    psnr = pq.read_table("bench/per_image.parquet", filters=[("metric", "=", "psnr")])
    gains = np.diff(psnr["value"].to_numpy().reshape(2, -1), axis=0)[0]  # bicubic's rows are before compact's
    photo = np.array([name.partition("+")[0] for name in psnr["id"].to_pylist()[: len(gains)]])
    for over, values in {"pairs": gains, "photos": [gains[photo == one].mean() for one in np.unique(photo)]}.items():
        low, high = ttest_1samp(values, 0).confidence_interval(0.95)
        print(f"psnr less bicubic's, {len(values)} {over}: {np.mean(values):+.3f} dB, 95% [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
