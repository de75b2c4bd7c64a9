"""LucidFlux as a model of `lucidflux restore`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lucidflux_model.inference.loading import load_pipeline, quiet_libraries
from lucidflux_model.inference.pipeline import TOKEN_PX
from lucidflux_model.inference.request import output_size
from lucidflux_model.network.tiling import tile_boxes
from pipelines.restoration.config import RestoreConfig

FORETOLD = 256  # pixels of the output: the side of the piece that tells how long an image takes


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
        height, width = self.output_size(*images[0].shape[:2])
        told = self._tell_steps(f"{width}x{height}", len(images))
        return self._call(images, height, width, self.config.steps, told)

    def foretell(self, image: np.ndarray) -> float | None:
        """Two steps of a piece, whose own time grows with the work of a step; what is done around the steps (proxy,
        autoencoder) grows with the area."""
        height, width = self.output_size(*image.shape[:2])
        small = (min(FORETOLD, height), min(FORETOLD, width))
        if small == (height, width):
            return None
        ends: list[float] = []

        def after(*_: object) -> None:
            self._wait()
            ends.append(time.perf_counter())

        start = time.perf_counter()
        self._call([image[: small[0], : small[1]]], *small, 2, after)
        step = ends[1] - ends[0]
        around = max(time.perf_counter() - start - 2 * step, 0)
        larger = self._work(height, width) / self._work(*small)
        return self.config.steps * step * larger + around * height * width / (small[0] * small[1])

    def _work(self, height: int, width: int) -> int:
        """Of one step of an output of this size, in units of its own: a block does 24 n w^2 operations in its linear
        layers and 4 n^2 w in its attention, for the n tokens of a tile, those of the condition included, of width w."""
        backbone, vision = self._pipeline.transformer.config, self._pipeline.image_encoder.config
        across = backbone.num_attention_heads * backbone.attention_head_dim
        condition = self._pipeline.prompt.config.tokens + (vision.image_size // vision.patch_size) ** 2
        rows, columns = -(-height // TOKEN_PX), -(-width // TOKEN_PX)
        side = self.config.tile // TOKEN_PX or max(rows, columns)
        boxes = tile_boxes(rows, columns, side, self.config.overlap // TOKEN_PX if self.config.tile else 0)
        tokens = [(box.bottom - box.top) * (box.right - box.left) + condition for box in boxes]
        return sum(count * (6 * across + count) for count in tokens)

    def _wait(self) -> None:
        """For a GPU, which takes work faster than it does it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _call(
        self, images: list[np.ndarray], height: int, width: int, steps: int, after: Callable[..., None] | None
    ) -> np.ndarray:
        config = self.config
        place = self.device if config.numerics == "parity" else "cpu"  # where the published code draws its noise
        restored: np.ndarray = self._pipeline(
            images,
            num_inference_steps=steps,
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
            callback_on_step_end=after,
            callback_on_step_end_tensor_inputs=[],
        ).images
        return restored

    def _tell_steps(self, size: str, images: int) -> Callable[..., None] | None:
        """A callback that tells once, from what the second step took, how long an image takes to be denoised."""
        say, self._say, steps = self._say, None, self.config.steps
        if say is None:
            return None
        start, ends = time.perf_counter(), []

        def after(pipeline: Any, index: int, *_: object) -> None:
            if index < 2:
                self._wait()
                ends.append((time.perf_counter() - start) / images)
            if index == 1:
                step = ends[1] - ends[0]
                say(
                    f"{size} in {steps} steps: about {ends[1] + step * (steps - 2):.0f} s an image, {step:.1f} s a step"
                )

        return after
