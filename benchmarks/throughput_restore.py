"""`throughput.py restore`: seconds an image and peak memory, against a loop that recomputes everything at each step.

On a CPU with `tiny`; on a GPU with `flux-dev` filled with random bfloat16 weights (times do not depend on the values).
The contenders take turns; ratios are medians over the pairs. The straight loop does what the published script does:
hint stack, prompt, guidance, positions and layer embeddings again at every step, modulation layer by layer and once too
often, all 19 control tensors held at once, the VAE in float32.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

app = typer.Typer(add_completion=False)


@app.command("restore")
def restore_command(
    model: Annotated[str, typer.Option(help="tiny, or flux-dev on a GPU.")] = "tiny",
    size: Annotated[int, typer.Option(help="Side of the output in pixels.")] = 256,
    steps: Annotated[int, typer.Option(min=1)] = 20,
    batch: Annotated[list[int], typer.Option(help="May be repeated.")] = [1],  # noqa: B006 - typer copies it
    pairs: Annotated[int, typer.Option(min=1, help="Times that the contenders take turns.")] = 5,
    compile_: Annotated[bool, typer.Option("--compile", help="Also with torch.compile of the blocks.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Seconds an image, peak memory, and the ratio to the straight loop."""
    import torch

    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = make_pipeline(model, device)
    rows = [measure(pipeline, size, steps, count, pairs, "eager") for count in batch]
    if compile_:
        pipeline.transformer.compile_repeated_blocks()
        pipeline.conditioner.compile_repeated_blocks()
        rows += [measure(pipeline, size, steps, count, pairs, "compiled") for count in batch]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "one CPU core"
    result = {"device": name, "model": model, "size": size, "steps": steps, "torch": torch.__version__, "rows": rows}
    text = json.dumps(result, indent=2)
    print(text)
    if out is not None:
        out.write_text(text + "\n")


def make_pipeline(model: str, device: Any) -> Any:
    import torch

    from lucidflux_model.models import build_random
    from lucidflux_model.pipeline import LucidFluxPipeline
    from lucidflux_model.schedule import make_scheduler

    dtype = torch.float32 if model == "tiny" else torch.bfloat16
    components = build_random(model, device=device, dtype=dtype)
    components["proxy"].float()
    pipeline = LucidFluxPipeline(**components, scheduler=make_scheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measure(pipeline: Any, size: int, steps: int, count: int, pairs: int, kind: str) -> dict[str, Any]:
    """Ours and the straight loop, in turns, after one run of each that is not counted."""
    import copy

    photos = np.random.default_rng(0).integers(0, 256, (count, size // 4, size // 4, 3), dtype=np.uint8)
    images = list(photos)
    vae = copy.deepcopy(pipeline.vae).float()
    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: pipeline(images, steps, output_type="pt"),
        "straight": lambda: straight(pipeline, images, steps, vae),
    }
    memory = {}
    for name, call in contenders.items():
        memory[name] = peak(pipeline, call)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(pairs):
        for name, call in contenders.items():
            times[name].append(seconds(pipeline, call) / count)
    ratios = [slow / fast for slow, fast in zip(times["straight"], times["ours"], strict=True)]
    return {
        "kind": kind,
        "batch": count,
        "seconds_an_image": {name: round(statistics.median(values), 3) for name, values in times.items()},
        "straight / ours": round(statistics.median(ratios), 3),
        "peak_memory_bytes": memory,
    }


def seconds(pipeline: Any, call: Callable[[], Any]) -> float:
    synchronise(pipeline)
    start = time.perf_counter()
    call()
    synchronise(pipeline)
    return time.perf_counter() - start


def synchronise(pipeline: Any) -> None:
    import torch

    if pipeline.device.type == "cuda":
        torch.cuda.synchronize()


def peak(pipeline: Any, call: Callable[[], Any]) -> int:
    """Bytes: of the allocator on a GPU, of the whole process (which only grows) on a CPU."""
    import torch

    from pipelines.restore import peak_memory

    if pipeline.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    call()
    return peak_memory(pipeline.device)


def straight(pipeline: Any, images: list[np.ndarray], steps: int, vae: Any) -> Any:
    """The same image (to rounding) without a single thing kept from one step to the next."""
    import torch

    from lucidflux_model.conditioner import Conditions, Control, position_ids
    from lucidflux_model.pipeline import _Request
    from lucidflux_model.schedule import schedule_length, set_sigmas
    from lucidflux_model.semantic import semantic_tokens

    with torch.no_grad():
        count, side = len(images), 4 * images[0].shape[0]
        request = _Request(steps, 4.0, 1.0, "published", "fast", 0, 0)
        conditioner, dtype = pipeline.conditioner, pipeline.conditioner.dtype
        lq = pipeline._lq(np.stack(images), side, side, "fast")
        proxy = pipeline._proxy(lq, request)
        latents = pipeline._noise(lq, None, "fast").to(dtype)
        text, pooled = pipeline.prompt(count)
        semantic = semantic_tokens(pipeline.image_encoder, pipeline.connector, proxy, "parity")
        context = torch.cat([text.to(dtype), semantic.to(dtype)], 1)
        ids = position_ids(lq.shape[2] // 16, lq.shape[3] // 16, lq.device)
        guidance = torch.full((count,), 4.0, device=lq.device)
        sigmas = set_sigmas(pipeline.scheduler, steps, schedule_length("published", side, side), lq.device)
        for index in range(steps):
            time_ = sigmas[index].expand(count).to(dtype)
            inputs = {"lq": lq, "proxy": 2 * proxy - 1, "text": text, "pooled": pooled, "guidance": guidance}
            conditions = conditioner(latents, time_, **inputs)
            layers = conditioner.num_layers
            tables = []
            for modulation, extra in ((conditioner.modulation_lq, 1), (conditioner.modulation_proxy, 0)):
                single = [modulation(time_, modulation.layers(layers + 1)[n : n + 1]) for n in range(layers + extra)]
                tables += [torch.cat([pair[part] for pair in single[:layers]], 1) for part in (0, 1)]
            control = list(Control(Conditions(conditions.lq, conditions.proxy, *tables)))
            velocity = pipeline.transformer(
                hidden_states=latents,
                encoder_hidden_states=context,
                pooled_projections=pooled.to(dtype),
                timestep=time_,
                img_ids=ids,
                txt_ids=ids.new_zeros(context.shape[1], 3),
                guidance=guidance,
                controlnet_block_samples=control,
                return_dict=False,
            )[0]
            latents = latents + float(sigmas[index + 1] - sigmas[index]) * velocity
        ours, pipeline.vae = pipeline.vae, vae
        try:
            return pipeline._decode(latents, lq, proxy, request, "proxy")
        finally:
            pipeline.vae = ours
