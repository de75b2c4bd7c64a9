"""The constant prompt as two tensors: T5 (4.8 billion parameters) and CLIP run once, in a command, not at inference."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

# What the published weights were trained with.
PROMPT = "restore this image into high-quality, clean, high-resolution result"


class PromptEmbeddings(ModelMixin, ConfigMixin):
    """`text`: T5 states, 1 x tokens x width. `pooled`: CLIP's pooled output, 1 x pooled_width."""

    @register_to_config
    def __init__(self, tokens: int = 512, width: int = 4096, pooled_width: int = 768, prompt: str = PROMPT) -> None:
        super().__init__()
        self.text = torch.nn.Parameter(torch.zeros(1, tokens, width), requires_grad=False)
        self.pooled = torch.nn.Parameter(torch.zeros(1, pooled_width), requires_grad=False)

    def forward(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(text, pooled) repeated for a batch, without copying."""
        return self.text.expand(batch, -1, -1), self.pooled.expand(batch, -1)
