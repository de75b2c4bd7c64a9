"""LucidFlux as a model of `lucidflux restore`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lucidflux_model.inference.loading import load_pipeline, quiet_libraries
from lucidflux_model.inference.request import output_size
from pipelines.restoration.config import RestoreConfig


class LucidFluxRestorer:
    """The pipeline with the settings of `config`. Every image has the same seed.

    `say` is called after two steps of the first image with the time that one takes.
    """

    smaller = "lower --upscale, or raise it"
    cheaper = "a smaller --tile, --quantize, or --offload group"

    def __init__(self, config: RestoreConfig, say: Callable[[str], None] | None = None) -> None:
        quiet_libraries()
        self.config = config
        self._say = say
        self._pipeline = load_pipeline(config.model, config.numerics, config.tile)
        self.device: torch.device = self._pipeline._execution_device

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        config = self.config
        return output_size((height, width), config.height, config.width, config.upscale)

    def restore(self, images: list[np.ndarray]) -> np.ndarray:
        config = self.config
        height, width = self.output_size(*images[0].shape[:2])
        place = self.device if config.numerics == "parity" else "cpu"  # where the published code draws its noise
        restored: np.ndarray = self._pipeline(
            images,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance,
            height=height,
            width=width,
            generator=[torch.Generator(place).manual_seed(config.seed) for _ in images],
            proxy_strength=config.proxy_strength,
            schedule=config.schedule,
            numerics=config.numerics,
            color_fix=config.color_fix,
            tile=config.tile,
            overlap=config.overlap,
            output_type="np",
            callback_on_step_end=self._estimate(f"{width}x{height}", len(images)),
            callback_on_step_end_tensor_inputs=[],
        ).images
        return restored

    def _estimate(self, size: str, images: int) -> Callable[..., None] | None:
        """A callback that tells once, from what the second step took, how long an image takes to be denoised."""
        say, self._say, steps = self._say, None, self.config.steps
        if say is None:
            return None
        start, ends = time.perf_counter(), []

        def after(pipeline: Any, index: int, *_: object) -> None:
            if index < 2:
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                ends.append((time.perf_counter() - start) / images)
            if index == 1:
                step = ends[1] - ends[0]
                say(
                    f"{size} in {steps} steps: about {ends[1] + step * (steps - 2):.0f} s an image, {step:.1f} s a step"
                )

        return after
