"""What the picture shows, as tokens for the backbone: the proxy through SigLIP2's vision tower and the connector."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


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
