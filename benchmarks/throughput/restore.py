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
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import numpy as np
import typer

from benchmarks.throughput.timing import Facts, print_json

if TYPE_CHECKING:
    import torch

    from lucidflux_model.inference.pipeline import LucidFluxPipeline

app = typer.Typer(add_completion=False)
# Ours against the straight loop: seconds and bytes by contender, the median of the paired ratios.
Contest = TypedDict(
    "Contest",
    {
        "kind": str,  # eager or compiled
        "batch": int,
        "seconds_an_image": dict[str, float],
        "straight / ours": float,
        "peak_memory_bytes": dict[str, int],
    },
)


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
    head = {"device": name, "model": model, "size": size, "steps": steps, "torch": torch.__version__}
    result: Facts = {**head, "rows": rows}
    print_json(result, out)


def make_pipeline(model: str, device: torch.device) -> LucidFluxPipeline:
    import torch

    from lucidflux_model.inference.pipeline import LucidFluxPipeline
    from lucidflux_model.network.build import build_random
    from lucidflux_model.network.schedule import make_scheduler

    dtype = torch.float32 if model == "tiny" else torch.bfloat16
    components = build_random(model, device=device, dtype=dtype)
    components["proxy"].float()
    pipeline = LucidFluxPipeline(**components, scheduler=make_scheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measure(pipeline: LucidFluxPipeline, size: int, steps: int, count: int, pairs: int, kind: str) -> Contest:
    """Ours and the straight loop, in turns, after one run of each that is not counted."""
    import copy

    photos = np.random.default_rng(0).integers(0, 256, (count, size // 4, size // 4, 3), dtype=np.uint8)
    images = list(photos)
    vae = copy.deepcopy(pipeline.vae).float()
    contenders: dict[str, Callable[[], object]] = {
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


def seconds(pipeline: LucidFluxPipeline, call: Callable[[], object]) -> float:
    synchronise(pipeline)
    start = time.perf_counter()
    call()
    synchronise(pipeline)
    return time.perf_counter() - start


def synchronise(pipeline: LucidFluxPipeline) -> None:
    import torch

    if pipeline.device.type == "cuda":
        torch.cuda.synchronize()


def peak(pipeline: LucidFluxPipeline, call: Callable[[], object]) -> int:
    """Bytes: of the allocator on a GPU, of the whole process (which only grows) on a CPU."""
    import torch

    from pipelines.restoration.unit import peak_memory

    if pipeline.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    call()
    return peak_memory(pipeline.device)


def straight(pipeline: LucidFluxPipeline, images: list[np.ndarray], steps: int, vae: Any) -> Any:
    """The same image (to rounding) without a single thing kept from one step to the next."""
    import torch

    from lucidflux_model.inference.request import Request
    from lucidflux_model.network.conditioner import Conditions, Control, position_ids
    from lucidflux_model.network.encode import semantic_tokens
    from lucidflux_model.network.schedule import schedule_length, set_sigmas

    with torch.no_grad():
        count, side = len(images), 4 * images[0].shape[0]
        request = Request(steps, tile=0)
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
            return pipeline._decode(latents, lq, proxy, request)
        finally:
            pipeline.vae = ours


@app.command("memory")
def memory_command(size: Annotated[int, typer.Option(help="Side of a tile in pixels.")] = 1024) -> None:
    """Computed, not measured: bytes of flux-dev's parts, of their activations, and what fits which card."""
    from lucidflux_model.inference.loading import choose_offload, memory_needs

    print(json.dumps({"activations": {name: f"{value / 1e9:.2f} GB" for name, value in activations(size).items()}}))
    for quantize in ("none", "fp8", "nf4"):
        sizes = flux_bytes(quantize)
        needs = {name: f"{value / 1e9:.1f} GB" for name, value in memory_needs(sizes, size).items()}
        cards = {f"{card} GB": choose_offload(sizes, 0.97 * card * 2**30, size) for card in (12, 24, 48, 80, 141)}
        parts = {name: f"{value / 1e9:.2f} GB" for name, value in sizes.items()}
        print(json.dumps({"quantize": quantize, "parts": parts, "needs": needs, "auto": cards}))


def flux_bytes(quantize: str) -> dict[str, float]:
    """Bytes of each part as `load_pipeline` holds it for numerics=fast, on the meta device."""
    import torch

    from lucidflux_model.inference.loading import module_bytes
    from lucidflux_model.network.build import MODELS, build

    parts = build(MODELS["flux-dev"], "meta", torch.bfloat16)
    sizes: dict[str, float] = {name: module_bytes(part) for name, part in parts.items()}
    sizes["proxy"] *= 2  # float32
    transformer = parts["transformer"]
    if quantize == "fp8":
        transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
        sizes["transformer"] = module_bytes(transformer)
    elif quantize == "nf4":
        # 4 bits a weight, and for 64 of them a scale of 8 bits, for 256 of those one of 32
        linear = sum(m.weight.numel() for m in transformer.modules() if isinstance(m, torch.nn.Linear))
        sizes["transformer"] += linear * (0.5 + (1 + 4 / 256) / 64 - 2)
    return sizes


def activations(size: int) -> dict[str, float]:
    """Peak bytes beside the weights of each part, one image: the real forwards on tensors without content."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    from lucidflux_model.network.build import MODELS, build
    from lucidflux_model.network.conditioner import Control, position_ids

    def peak_of(module: Any, call: Callable[[], object]) -> tuple[Any, float]:
        tracker = MemTracker()
        tracker.track_external(module)
        with tracker:
            result = call()
        snapshot = tracker.get_tracker_snapshot("peak")
        total = sum(kinds["Total"] for kinds in snapshot.values())
        return result, total - sum(tensor.nbytes for tensor in module.parameters())

    half = torch.bfloat16
    with FakeTensorMode(), torch.no_grad():
        flux = build(MODELS["flux-dev"], "cpu", half, ("transformer", "conditioner", "vae"))
        proxy = build(MODELS["flux-dev"], "cpu", parts=("proxy",))["proxy"]
        pixels, tokens = torch.empty(1, 3, size, size), (size // 16) ** 2
        text, pooled = torch.empty(1, 512, 4096, dtype=half), torch.empty(1, 768, dtype=half)
        latent, time_, guidance = torch.empty(1, tokens, 64), torch.ones(1), torch.full((1,), 4.0)
        peaks = {"proxy": peak_of(proxy, lambda: proxy(pixels))[1]}
        conditioner = flux["conditioner"]
        prepared, peaks["prepare"] = peak_of(
            conditioner, lambda: conditioner.prepare(pixels, pixels, text, pooled, guidance)
        )
        conditions, peaks["conditioner"] = peak_of(conditioner, lambda: conditioner(latent, time_, prepared))
        inputs = {
            "hidden_states": latent.to(half),
            "encoder_hidden_states": torch.empty(1, 1536, 4096, dtype=half),
            "pooled_projections": pooled,
            "timestep": time_,
            "img_ids": position_ids(size // 16, size // 16),
            "txt_ids": torch.zeros(1536, 3),
            "guidance": guidance,
            "controlnet_block_samples": Control(conditions),
        }
        peaks["transformer"] = peak_of(flux["transformer"], lambda: flux["transformer"](**inputs))[1]
        latents = torch.empty(1, 16, size // 8, size // 8, dtype=half)
        peaks["vae"] = peak_of(flux["vae"], lambda: flux["vae"].decode(latents))[1]
    return peaks
