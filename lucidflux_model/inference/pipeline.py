"""`LucidFluxPipeline`: from a low-quality image to a restored one, through the interfaces that diffusers users know.

    image -> bicubic to the output size -> LQ --------------------------> branch ---+
                                           LQ -> SwinIR -> proxy -------> branch ---+--> control
                                                           proxy -> SigLIP2 -> connector --> context
    noise -> N steps of (control, backbone) -> VAE -> wavelet colours of the proxy -> image

Sides are reflected up to multiples of 16 and cut back; what is larger than `tile` is denoised in overlapping tiles
whose velocities are blended at every step, each tile conditioned on its own part of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from transformers import SiglipVisionModel

from lucidflux_data.errors import WrongCall
from lucidflux_data.images import upsample_lq
from lucidflux_data.in_memory import pixels_of
from lucidflux_model.inference.color import align_colors
from lucidflux_model.inference.request import Request, check_calls, output_size
from lucidflux_model.network.conditioner import Control, LucidFluxConditioner, Prepared, pack, position_ids, unpack
from lucidflux_model.network.encode import semantic_tokens
from lucidflux_model.network.prompt import PromptEmbeddings
from lucidflux_model.network.proxy import SwinIRProxy
from lucidflux_model.network.schedule import schedule_length, set_sigmas
from lucidflux_model.network.tiling import Box, blend, pad_reflect, run_tiled, tile_boxes

LATENT_PX = 8  # pixels along the side of a latent of the autoencoder
TOKEN_PX = 16  # and of a token: two latents
Images = Any  # what `lucidflux_data.in_memory.pixels_of` takes
Callback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]


@dataclass
class _Tile:
    """A part of the image, as the networks see it; the whole image is one tile. `box` counts tokens."""

    box: Box
    prepared: Prepared
    context: Tensor
    image_ids: Tensor


class LucidFluxPipeline(DiffusionPipeline):
    """Components as in `lucidflux_model.network.build`. `from_pretrained`, `save_pretrained`, offload and quantisation
    are diffusers' own; keep `proxy` and `vae` in float32 for `numerics="parity"`
    (`dtype={"default": torch.bfloat16, "proxy": torch.float32, "vae": torch.float32}`)."""

    model_cpu_offload_seq = "proxy->image_encoder->connector->transformer->vae"
    # Runs at every step, in turn with the backbone: moving its 3 GB to and fro would cost more than it frees.
    _exclude_from_cpu_offload = ["conditioner", "prompt"]  # noqa: RUF012 - diffusers' own attribute
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        conditioner: LucidFluxConditioner,
        connector: ReduxImageEncoder,
        proxy: SwinIRProxy,
        image_encoder: SiglipVisionModel,
        vae: AutoencoderKL,
        prompt: PromptEmbeddings,
        scheduler: FlowMatchEulerDiscreteScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer,
            conditioner=conditioner,
            connector=connector,
            proxy=proxy,
            image_encoder=image_encoder,
            vae=vae,
            prompt=prompt,
            scheduler=scheduler,
        )
        self._guidance_scale, self._num_timesteps, self._interrupt = 0.0, 0, False

    @torch.no_grad()
    def __call__(
        self,
        image: Images,
        num_inference_steps: int = 28,
        guidance_scale: float = 4.0,
        height: int | None = None,
        width: int | None = None,
        upscale: float = 4,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        num_images_per_prompt: int | None = 1,
        proxy_strength: float = 1.0,
        schedule: str = "published",
        numerics: str = "fast",
        color_fix: str = "proxy",
        tile: int = 1024,
        overlap: int = 128,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Restores one image or several of one size.

        `image`: what `lucidflux_data.in_memory.pixels_of` takes: Pillow's images, arrays or tensors, by the image
        contract of the data engine. Output size: `height` x `width`, one of them and the input's aspect ratio, or the
        input's times `upscale`. `generator`: one, or one for each image. `latents`: noise in place of drawn one, B x
        tokens x 64 as output_type latent has it. `num_images_per_prompt`: 1. `proxy_strength`: weight of the second
        branch. `schedule`: published | flux. `numerics`: fast | parity (the published code's casts). `color_fix`:
        colours of the proxy, of the lq, or none. `tile`, `overlap`: pixels, multiples of 64; tile 0 is never tiled.
        `output_type`: pil, np (B x H x W x 3 in [0, 1]), pt (B x 3 x H x W) or latent (packed).

        `callback_on_step_end(pipeline, index, sigma, {"latents": ...})` may return other latents, or set
        `pipeline._interrupt` to end after this step. Raises WrongCall.
        """
        steps, guidance = num_inference_steps, guidance_scale
        request = Request(steps, guidance, proxy_strength, schedule, numerics, tile, overlap, color_fix, output_type)
        names = callback_on_step_end_tensor_inputs
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            names = callback_on_step_end.tensor_inputs
        self._check_parity(numerics)
        levels = _levels(image)
        check_calls(len(levels), generator, num_images_per_prompt, names, self._callback_tensor_inputs)
        self._guidance_scale, self._interrupt = guidance, False
        height, width = output_size(levels.shape[1:3], height, width, upscale)
        lq = self._lq(levels, height, width, numerics)
        start = self._noise(lq, generator, numerics, latents)
        proxy = self._proxy(lq, request)
        denoised = self._denoise(start, lq, proxy, request, callback_on_step_end, names)
        if output_type == "latent":
            result: Any = denoised
        else:
            result = _as_output(self._decode(denoised, lq, proxy, request)[..., :height, :width], output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=result) if return_dict else (result,)

    @property
    def guidance_scale(self) -> float:
        """Of the call that runs, or of the last one."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Steps of the call that runs, or of the last one."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback has asked, by `pipeline._interrupt = True`, for no further steps."""
        return self._interrupt

    def _check_parity(self, numerics: str) -> None:
        if numerics == "parity":
            for name in ("proxy", "vae"):
                if getattr(self, name).dtype != torch.float32:
                    raise WrongCall(f"numerics='parity' needs {name} in float32: see dtype of from_pretrained")

    def _lq(self, levels: np.ndarray, height: int, width: int, numerics: str) -> Tensor:
        """B x 3 x H x W in [-1, 1], float32, sides up to multiples of 16; parity rounds it to the network's dtype."""
        resized = np.stack([upsample_lq(image, height, width) for image in levels])
        pixels = torch.from_numpy(resized).to(self._execution_device).permute(0, 3, 1, 2).float()
        lq = pad_reflect(pixels / 127.5 - 1, TOKEN_PX)
        return lq.to(self.conditioner.dtype).float() if numerics == "parity" else lq

    def _proxy(self, lq: Tensor, request: Request) -> Tensor:
        """B x 3 x H x W in [0, 1], float32, image by image: SwinIR's attention takes more memory than it repays."""
        unit = ((lq + 1) / 2).clamp(0, 1).to(self.proxy.dtype)
        restored = [self.proxy.restore(image[None], request.tile, request.overlap) for image in unit]
        return torch.cat(restored).float()

    def _noise(self, lq: Tensor, generator: Any, numerics: str, given: Tensor | None = None) -> Tensor:
        """Packed noise. parity draws it on the device in the network's dtype, as the published code does."""
        channels = self.vae.config.latent_channels
        rows, columns = lq.shape[2] // TOKEN_PX, lq.shape[3] // TOKEN_PX
        dtype = self.conditioner.dtype if numerics == "parity" else torch.float32
        if given is None:
            shape = (len(lq), channels, 2 * rows, 2 * columns)
            return pack(randn_tensor(shape, generator=generator, device=lq.device, dtype=dtype))
        wanted = (len(lq), rows * columns, 4 * channels)
        if tuple(given.shape) != wanted:
            raise WrongCall(
                f"latents are {'x'.join(map(str, wanted))} for this output, not {'x'.join(map(str, given.shape))}"
            )
        return given.to(lq.device, dtype)

    def _prepare(self, lq: Tensor, proxy: Tensor, box: Box, request: Request) -> _Tile:
        """All of one tile that no step changes."""
        area = (..., slice(TOKEN_PX * box.top, TOKEN_PX * box.bottom), slice(TOKEN_PX * box.left, TOKEN_PX * box.right))
        lq, proxy = lq[area], proxy[area]
        dtype = self.conditioner.dtype
        # bfloat16 ids merge neighbours above 256 (sides over 4096 px): kept where the published casts are asked for.
        id_dtype = dtype if request.numerics == "parity" else torch.float32
        ids = position_ids(box.bottom - box.top, box.right - box.left, lq.device, id_dtype).float()
        text, pooled = self.prompt(len(lq))
        semantic = semantic_tokens(self.image_encoder, self.connector, proxy, request.numerics)
        context = torch.cat([text.to(dtype), semantic.to(dtype)], 1)
        guidance = torch.full((len(lq),), request.guidance, device=lq.device)
        prepared = self.conditioner.prepare(lq, 2 * proxy - 1, text, pooled, guidance, ids)
        return _Tile(box, prepared, context, ids)

    def _denoise(
        self,
        latents: Tensor,
        lq: Tensor,
        proxy: Tensor,
        request: Request,
        callback: Callable[..., dict[str, Tensor] | None] | None,
        names: Sequence[str],
    ) -> Tensor:
        """Euler steps over the schedule of a tile's size: the size that the network sees."""
        rows, columns = lq.shape[2] // TOKEN_PX, lq.shape[3] // TOKEN_PX
        side = request.tile // TOKEN_PX or max(rows, columns)
        boxes = tile_boxes(rows, columns, side, request.overlap // TOKEN_PX if request.tile else 0)
        tiles = [self._prepare(lq, proxy, box, request) for box in boxes]
        first = boxes[0]
        size = (TOKEN_PX * (first.bottom - first.top), TOKEN_PX * (first.right - first.left))
        length = schedule_length(request.schedule, *size)
        sigmas = set_sigmas(self.scheduler, request.steps, length, latents.device)
        self._num_timesteps = request.steps
        with self.progress_bar(total=request.steps) as bar:
            for index, sigma in enumerate(sigmas[:-1]):
                velocity = self._velocity(latents, sigma, tiles, (rows, columns), request)
                if request.numerics == "parity":
                    latents = latents + float(sigmas[index + 1] - sigma) * velocity.to(latents.dtype)
                else:
                    time = self.scheduler.timesteps[index]
                    latents = self.scheduler.step(velocity.float(), time, latents, return_dict=False)[0]
                if callback is not None:
                    given = {"latents": latents} if "latents" in names else {}
                    latents = (callback(self, index, sigma, given) or {}).get("latents", latents)
                bar.update()
                if self._interrupt:
                    break
        return latents

    def _velocity(
        self, latents: Tensor, sigma: Tensor, tiles: list[_Tile], grid: tuple[int, int], request: Request
    ) -> Tensor:
        """B x N x 64 of the whole image."""
        if len(tiles) == 1:
            return self._tile_velocity(latents, sigma, tiles[0], request)
        channels = latents.transpose(1, 2).unflatten(2, grid)

        def parts() -> Any:
            for tile in tiles:
                top, bottom, left, right = tile.box
                part = channels[..., top:bottom, left:right].flatten(2).transpose(1, 2)
                velocity = self._tile_velocity(part, sigma, tile, request)
                yield velocity.transpose(1, 2).unflatten(2, (bottom - top, right - left))

        boxes = [tile.box for tile in tiles]
        blended = blend(parts(), boxes, channels.shape, request.overlap // TOKEN_PX)
        return blended.flatten(2).transpose(1, 2)

    def _tile_velocity(self, latents: Tensor, sigma: Tensor, tile: _Tile, request: Request) -> Tensor:
        dtype = self.conditioner.dtype
        time = sigma.expand(len(latents)).to(dtype if request.numerics == "parity" else torch.float32)
        guidance = torch.full((len(latents),), request.guidance, device=latents.device)
        control = Control(self.conditioner(latents, time, tile.prepared), request.proxy_strength)
        hook = None
        if request.numerics == "fast":
            # diffusers' forward rounds t to the latents' dtype before it multiplies by 1000; this keeps it as it is.
            exact = (time * 1000, guidance * 1000)
            hook = self.transformer.time_text_embed.register_forward_pre_hook(
                lambda _, arguments: (*exact, arguments[2])
            )
        try:
            return self.transformer(
                hidden_states=latents.to(dtype),
                encoder_hidden_states=tile.context,
                pooled_projections=self.prompt(len(latents))[1].to(dtype),
                timestep=time,
                img_ids=tile.image_ids,
                txt_ids=tile.image_ids.new_zeros(tile.context.shape[1], 3),
                guidance=guidance,
                controlnet_block_samples=control,
                return_dict=False,
            )[0]
        finally:
            if hook is not None:
                hook.remove()

    def _decode(self, latents: Tensor, lq: Tensor, proxy: Tensor, request: Request) -> Tensor:
        """B x 3 x H x W in [0, 1], float32; decoded image by image, in the tiles that were denoised."""
        grid = (lq.shape[2] // TOKEN_PX, lq.shape[3] // TOKEN_PX)
        scale, shift = self.vae.config.scaling_factor, self.vae.config.shift_factor
        scaled = unpack(latents.float(), *grid).to(self.vae.dtype) / scale + shift
        tile, overlap = request.tile // LATENT_PX, request.overlap // LATENT_PX
        decoded = [run_tiled(self._decode_one, one[None], tile, overlap, TOKEN_PX // LATENT_PX) for one in scaled]
        pixels = (torch.cat(decoded).float().clamp(-1, 1) + 1) / 2
        if request.color_fix == "none":
            return pixels
        source = proxy if request.color_fix == "proxy" else (lq + 1) / 2
        return align_colors(pixels, source).clamp(0, 1)

    def _decode_one(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return pixels


def _levels(image: Images) -> np.ndarray:
    """uint8 B x H x W x 3."""
    pixels = pixels_of(image)
    if not pixels:
        raise WrongCall("there is no image to restore")
    if len({one.shape for one in pixels}) > 1:
        raise WrongCall("the images of one call have one size: call once for each size")
    return np.stack(pixels)


def _as_output(pixels: Tensor, output_type: str) -> Any:
    if output_type == "pt":
        return pixels
    array = pixels.permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return array
    return [Image.fromarray(one) for one in (array * 255).round().astype(np.uint8)]
