"""`throughput.py train`: the loader alone, and a training step: seconds, MFU, peak memory, where the time goes.

The step runs with `tiny` on a CPU, and with `flux-dev` on a GPU: random bfloat16 weights there, since times do not
depend on the values. Pairs are real ones, of a folder that `synthesize` made.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from benchmarks.throughput.timing import Facts, Value

if TYPE_CHECKING:
    import torch

    from lucidflux_model.network.build import Components
    from lucidflux_model.training.config import TrainConfig
    from lucidflux_model.training.progress.log import Step

app = typer.Typer(add_completion=False)
WARM = 3  # steps before the clock starts


class LoaderReport(TypedDict):
    """The loader in one process."""

    samples: int
    size: list[int]  # height and width of the pairs
    samples_per_s_per_core: float
    megabytes_per_s: float  # of encoded images
    share: dict[str, float]  # of the time: read, decode_hq, decode_lq, upsample


@app.command("train")
def train_command(
    pairs: Annotated[Path, typer.Option(help="Folder of pairs; 1024x1024 for flux-dev.")],
    model: Annotated[str, typer.Option(help="tiny, or flux-dev on a GPU.")] = "tiny",
    batch: Annotated[list[int], typer.Option(help="Samples of a step; may be repeated.")] = [1, 2],  # noqa: B006
    steps: Annotated[int, typer.Option(min=1, help="That are timed.")] = 10,
    compile_: Annotated[bool, typer.Option("--compile", help="Also with torch.compile of the blocks.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Samples a second of the loader; seconds a step by checkpointing, batch and compilation; a profile."""
    import torch

    from benchmarks.environment import capture

    torch.set_num_threads(1)
    result: Facts = {"topic": "train", "environment": capture(), "loader": measure_loader(pairs)}
    rows = []
    for size in batch:
        for how in ("full", "selective", "off"):
            for compiled in (False, True)[: 1 + compile_]:
                settings = [f"model.name={model}", f"batch_size={size}", f"checkpointing={how}", f"compile={compiled}"]
                rows.append(
                    {"batch": size, "checkpointing": how, "compile": compiled, **measure(pairs, settings, steps)}
                )
                typer.echo(json.dumps(rows[-1]), err=True)
    result["steps"] = rows
    text = json.dumps(result, indent=1)
    typer.echo(text)
    if out is not None:
        out.write_text(text + "\n")


def measure_loader(pairs: Path, samples: int = 200) -> LoaderReport:
    """One process, shuffled order: samples a second, and which part of it is reading, decoding and upsampling."""
    import numpy as np

    from lucidflux_data.images import decode, upsample_lq
    from lucidflux_data.storage.folder import Folder
    from lucidflux_model.samples.sources import open_shards
    from lucidflux_model.samples.stream import Order, PairDataset

    with tempfile.TemporaryDirectory() as scratch:
        source = open_shards([str(pairs)], Folder(scratch))
    order = Order(np.arange(len(source)), source.shard_of, 0, 4)
    dataset = PairDataset(source, order)
    spent = {"all": 0.0, "read": 0.0, "decode_hq": 0.0, "decode_lq": 0.0, "upsample": 0.0}
    size = 0

    def timed(name: str, call: Callable[[], Value]) -> Value:
        start = time.perf_counter()
        found = call()
        spent[name] += time.perf_counter() - start
        return found

    for position in range(samples):
        timed("all", partial(dataset.__getitem__, position))
        index = order.at(position)[1]
        row = {name: int(column[index]) for name, column in source._columns.items()}
        hq, lq = timed("read", partial(source._bytes, index, row))
        size += len(hq) + len(lq)
        timed("decode_hq", partial(decode, hq))
        small = timed("decode_lq", partial(decode, lq))
        timed("upsample", partial(upsample_lq, small, *source.size))
    total = spent.pop("all")
    shares = {name: round(seconds / total, 3) for name, seconds in spent.items()}
    return {
        "samples": samples,
        "size": list(source.size),
        "samples_per_s_per_core": round(samples / total, 1),
        "megabytes_per_s": round(size / total / 1e6, 1),
        "share": shares,
    }


def measure(pairs: Path, settings: list[str], steps: int) -> Facts:
    """Median of `steps` steps of the trainer itself, after WARM."""
    import torch

    from lucidflux_data.config import resolve
    from lucidflux_model.network.build import build_random
    from lucidflux_model.training import setup as train_setup
    from lucidflux_model.training.config import TrainConfig
    from lucidflux_model.training.distributed import Runtime
    from lucidflux_model.training.model import FROZEN

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fixed = ["warmup=1", "validation.fraction=0", "tensorboard=false", "checkpoint_every=1000000", "ema=0"]
    fixed.append(f"data.workers={min(4, (os.cpu_count() or 1) // 2) if torch.cuda.is_available() else 0}")
    config = resolve(TrainConfig, {}, None, [*fixed, f"steps={steps + WARM}", *settings])

    def random_parts(config: TrainConfig, dtype: torch.dtype, names: Sequence[str] = FROZEN) -> Components:
        parts = build_random(config.model.name, device=device, dtype=dtype, parts=names)
        if "proxy" in parts:
            parts["proxy"].float()
        return parts

    train_setup.frozen_parts = random_parts
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    lines: list[Step] = []
    with tempfile.TemporaryDirectory() as out:
        alone = Runtime(0, 1, device)
        try:
            train_setup.train(config, [str(pairs)], Path(out), alone, on_step=lines.append, say=lambda _: None)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return {"seconds": None, "reason": "out of memory"}
    timed = lines[WARM:]
    median = {name: statistics.median(line[name] for line in timed) for name in ("seconds", "data_wait")}
    if "mfu" in timed[0]:
        median["mfu"] = statistics.median(line["mfu"] for line in timed)
    return {**median, "peak_memory_bytes": timed[-1]["peak_memory_bytes"], "profile": profile(config, device)}


def profile(config: TrainConfig, device: torch.device) -> dict[str, float]:
    """Share of a step's time: encoding (VAE, SwinIR, SigLIP2), forward, backward."""
    import torch

    from lucidflux_model.training.distributed import Runtime
    from lucidflux_model.training.objective import draw
    from lucidflux_model.training.setup import prepare_model

    model = prepare_model(config, Runtime(0, 1, device), None)
    side = 1024 if config.model.name == "flux-dev" else 256
    pixels = torch.randint(0, 256, (config.batch_size, 3, side, side), dtype=torch.uint8)
    spent = {"encode": 0.0, "forward": 0.0, "backward": 0.0}
    for turn in range(WARM):
        marks = [_now(device)]
        inputs = model.encode({"hq": pixels, "lq": pixels})
        latent = inputs.pop("latent")
        marks.append(_now(device))
        draws = draw(config, list(range(config.batch_size)), latent.shape[1:], device)
        loss = model(draws.noise, **inputs, draws=draws).float().square().mean()
        marks.append(_now(device))
        loss.backward()
        marks.append(_now(device))
        if turn:
            for name, start, end in zip(spent, marks, marks[1:], strict=False):
                spent[name] += end - start
    return {name: round(seconds / sum(spent.values()), 3) for name, seconds in spent.items()}


def _now(device: torch.device) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
