"""LucidFlux as a model of `lucidflux restore`."""

from __future__ import annotations

import numpy as np
import torch

from lucidflux_model.inference.loading import load_pipeline, quiet_libraries
from pipelines.restoration.config import RestoreConfig


class LucidFluxRestorer:
    """The pipeline with the settings of `config`. Every image has the same seed."""

    smaller = "lower --upscale, or raise it"
    cheaper = "a smaller --tile, --quantize, or --offload group"

    def __init__(self, config: RestoreConfig) -> None:
        quiet_libraries()
        self.config = config
        self._pipeline = load_pipeline(config.model, config.numerics)
        self.device: torch.device = self._pipeline._execution_device

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        upscaled = (max(1, round(side * self.config.upscale)) for side in (height, width))
        height, width = upscaled
        return self.config.height or height, self.config.width or width

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
        ).images
        return restored
