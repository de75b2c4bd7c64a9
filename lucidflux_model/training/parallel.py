"""Gradients over processes: DDP copies the trained parts, FSDP2 cuts them up, and the frozen ones where asked.

Frozen and trained parameters differ in dtype, and in whether they have gradients, so they never share an FSDP group.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from lucidflux_model.training.distributed import Runtime
from lucidflux_model.training.model import VelocityModel


class Parallel:
    """`call` is the model's forward with gradients averaged over processes in the last piece of a step."""

    def __init__(self, model: VelocityModel, runtime: Runtime, kind: str, shard_frozen: bool) -> None:
        self.model, self.runtime, self.kind = model, runtime, kind
        self.call: Callable[..., Tensor] = model
        if kind == "fsdp" and runtime.world > 1:
            self._shard(shard_frozen)
        elif runtime.world > 1:
            self.call = self._copied()

    def _copied(self) -> DistributedDataParallel:
        frozen = [name for name, parameter in self.model.named_parameters() if not parameter.requires_grad]
        frozen += [name for name, _ in self.model.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, frozen)
        devices = [self.runtime.device] if self.runtime.device.type == "cuda" else None
        # Without the search for unused parameters DDP rebuilds its buckets after the first step, and sums in another
        # order then: a resumed run would not be bit-equal to one that was not interrupted.
        return DistributedDataParallel(
            self.model, device_ids=devices, find_unused_parameters=True, gradient_as_bucket_view=True
        )

    def _shard(self, shard_frozen: bool) -> None:
        mesh = self.runtime.mesh
        # It warns of results that are views, in case they are changed in place; control and tokens never are.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        conditioner = self.model.conditioner
        for branch in (conditioner.branch_lq, conditioner.branch_proxy):
            for block in branch.transformer_blocks:
                fully_shard(block, mesh=mesh)
        # Roots keep their gathered weights after a forward by default: validation with the moving average would then
        # leave it to the next step of training.
        fully_shard(conditioner, mesh=mesh, reshard_after_forward=True)
        register_fsdp_forward_method(conditioner, "prepare")  # what inference calls
        fully_shard(self.model.connector, mesh=mesh, reshard_after_forward=True)
        if shard_frozen:
            transformer = self.model.transformer
            for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
                fully_shard(block, mesh=mesh)
            fully_shard(transformer, mesh=mesh, reshard_after_forward=True)

    def accumulating(self, last: bool) -> Any:
        """Around one piece of a step: gradients stay local until the last."""
        if self.kind == "fsdp" and self.runtime.world > 1:
            for module in (self.model.conditioner, self.model.connector):
                module.set_requires_gradient_sync(last)
        elif isinstance(self.call, DistributedDataParallel) and not last:
            return self.call.no_sync()
        return contextlib.nullcontext()

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}


def clip_gradient(parameters: list[nn.Parameter], limit: float) -> float:
    """Scales gradients down to the norm `limit`; gives the norm before, over all processes. Not finite: left alone."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    if torch.isfinite(norm):
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return float(norm)
