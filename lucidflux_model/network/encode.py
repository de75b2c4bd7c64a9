"""From pixels to what the transformer takes: latents of the VAE and tokens of the vision tower."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


class Tensors(TypedDict, total=False):
    """What the frozen parts take: of one sample, or stacked to B x ... for a batch."""

    hq: Tensor  # uint8 3 x H x W
    lq: Tensor  # uint8 3 x H x W
    latent: Tensor  # the rest only where it is cached: see `lucidflux_model.samples.cached`
    proxy: Tensor  # uint8 3 x H x W
    semantic: Tensor


@torch.no_grad()
def encode(parts: Any, batch: Tensors) -> dict[str, Tensor]:
    """`parts` has vae, proxy and image_encoder. `batch`: hq, lq, and what is cached of the rest.

    latent: B x C x H/8 x W/8, scaled as the backbone wants it; lq, proxy: B x 3 x H x W in [-1, 1]; features:
    B x tokens x width; float32 but for the last.
    """
    lq = batch["lq"].to(parts.vae.device).float() / 127.5 - 1
    if "proxy" in batch:
        proxy = batch["proxy"].to(parts.vae.device).float() / 255
    else:
        unit = ((lq + 1) / 2).clamp(0, 1).to(parts.proxy.dtype)
        proxy = torch.cat([parts.proxy.restore(image[None], tile=0) for image in unit]).float()
    if "semantic" in batch:
        features = batch["semantic"].to(parts.vae.device)
    else:
        pixels = siglip_input(proxy, parts.image_encoder.config.image_size).to(parts.image_encoder.dtype)
        features = parts.image_encoder(pixel_values=pixels).last_hidden_state
    latent = batch["latent"].to(parts.vae.device).float() if "latent" in batch else latents(parts, batch["hq"])
    return {"latent": latent, "lq": lq, "proxy": 2 * proxy - 1, "features": features}


@torch.no_grad()
def latents(parts: Any, hq: Tensor) -> Tensor:
    """The mean of the autoencoder's distribution, image by image."""
    pixels = (hq.to(parts.vae.device).float() / 127.5 - 1).to(parts.vae.dtype)
    means = [parts.vae.encode(image[None], return_dict=False)[0].mode() for image in pixels]
    return (torch.cat(means).float() - parts.vae.config.shift_factor) * parts.vae.config.scaling_factor


def siglip_input(proxy: Tensor, size: int, numerics: str = "fast") -> Tensor:
    """B x 3 x H x W in [0, 1] -> B x 3 x size x size in [-1, 1], antialiased bilinear, aspect ratio not kept.

    `parity` goes through 8 bits, cut and not rounded, and Pillow, as the published code does; `fast` resizes the
    floats where they are. The two differ by up to two 8-bit levels.
    """
    if numerics == "parity":
        levels = (proxy.float().clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        resized = [np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BILINEAR)) for i in levels]
        unit = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(proxy.device).float() / 255
    else:
        unit = F.interpolate(proxy.float(), (size, size), mode="bilinear", antialias=True).clamp(0, 1)
    return (unit - 0.5) / 0.5


def semantic_tokens(image_encoder: Any, connector: Any, proxy: Tensor, numerics: str = "fast") -> Tensor:
    """B x (size/patch)^2 x width tokens. `image_encoder`: SiglipVisionModel; `connector`: ReduxImageEncoder."""
    pixels = siglip_input(proxy, image_encoder.config.image_size, numerics)
    features = image_encoder(pixel_values=pixels.to(image_encoder.dtype)).last_hidden_state
    return connector(features.to(connector.dtype)).image_embeds
