"""How far a run has come, on pairs that never enter it, with the same keys, sigmas and noise every time.

loss of each sigma bin, at its centre             images restored with a few steps: PSNR, SSIM
RUN/validation/step-00000500/<key>.png            LQ | proxy | output | HQ
RUN/validation/step-00000500/<suite>/<id>.png     of a benchmark suite, which marks the checkpoint as contaminated
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lucidflux_data.codecs.encoding import encode
from lucidflux_data.errors import InputError
from lucidflux_data.images import ImageError
from lucidflux_data.iqa.fidelity import psnr, ssim
from lucidflux_data.iqa.niqe import niqe
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.names import safe_file
from lucidflux_model.inference.pipeline import TOKEN_PX, LucidFluxPipeline
from lucidflux_model.network.build import TRAINED
from lucidflux_model.network.conditioner import pack
from lucidflux_model.network.schedule import make_scheduler
from lucidflux_model.samples.reading import Unreadable
from lucidflux_model.samples.sources import PairSource
from lucidflux_model.samples.stream import hash64
from lucidflux_model.samples.suites import SuiteImages
from lucidflux_model.training.config import BINS, TrainConfig
from lucidflux_model.training.distributed import Runtime
from lucidflux_model.training.model import FROZEN, VelocityModel
from lucidflux_model.training.objective import Draws, model_time, velocity_losses
from lucidflux_model.training.progress.log import Figures

EPOCH = 0  # of on-line pairs: the variant that is measured
PLACE = "validation"


def choose(
    held: Sequence[int], groups: Sequence[str] | Mapping[int, str], keys: Sequence[str] | Mapping[int, str], count: int
) -> list[int]:
    """`count` indices out of `held`, by the hash of the key, one of a group."""
    chosen: dict[str, int] = {}
    for index in sorted(held, key=lambda i: (hash64("chosen", keys[i]), i)):
        chosen.setdefault(groups[index], index)
    return list(chosen.values())[:count]


@dataclass
class Validation:
    """`suite`: the benchmark that `source` is of; None for pairs that were held out."""

    model: VelocityModel
    config: TrainConfig
    source: PairSource | SuiteImages
    chosen: list[int]
    runtime: Runtime
    run: Path
    suite: str | None = None
    _kept: dict[int, tuple[np.ndarray | None, np.ndarray]] = field(default_factory=dict)  # between load and unload

    def load(self) -> None:
        """Reads what this process will measure, before the step whose weights are measured: a store that is away then
        costs no step. InputError for a damaged pair, StorageError and its like."""
        world, count = self.runtime.world, len(self.chosen)
        turns = -(-count // world) if "psnr" in self.measures else 0
        places = {(turn * world + self.runtime.rank) % count for turn in range(turns)}
        places |= {place for place in range(min(count, self.config.validation.images)) if self._restores(place)}
        self._kept = {self.chosen[place]: self._read(self.chosen[place]) for place in sorted(places)}

    def unload(self) -> None:
        self._kept = {}

    def _restores(self, place: int) -> bool:
        """With weights in pieces every process takes part in every image."""
        return self.config.parallel == "fsdp" or place % self.runtime.world == self.runtime.rank

    @property
    def measures(self) -> tuple[str, ...]:
        """Of restored images: against references where there are any."""
        with_references = not isinstance(self.source, SuiteImages) or self.source.references
        return ("psnr", "ssim") if with_references else ("niqe",)

    @torch.no_grad()
    def losses(self) -> Figures:
        """`loss` and `loss_by_sigma` over the chosen pairs, dealt to the processes; {} without references. InputError
        for a damaged pair."""
        if "psnr" not in self.measures:
            return {}
        sums = torch.zeros(BINS + 1, dtype=torch.float64, device=self.runtime.device)
        world, count = self.runtime.world, len(self.chosen)
        for turn in range(-(-count // world)):  # as many calls on each: FSDP gathers weights in every one
            place = turn * world + self.runtime.rank
            found = self._losses_of(self.chosen[place % count])
            if place < count:
                sums[:BINS] += found.double()
                sums[BINS] += 1
        totals = self.runtime.sum(sums).tolist()
        by_sigma = [total / totals[BINS] for total in totals[:BINS]]
        return {"loss": sum(by_sigma) / BINS, "loss_by_sigma": by_sigma}

    def _losses_of(self, index: int) -> Tensor:
        hq, lq = self._read(index)
        assert hq is not None, "`losses` has looked"
        rows, columns = (side // TOKEN_PX * TOKEN_PX for side in hq.shape[:2])
        inputs = self.model.encode({"hq": _batch(hq[:rows, :columns]), "lq": _batch(lq[:rows, :columns])})
        clean = inputs.pop("latent")
        generator = torch.Generator().manual_seed(hash64("validation", self.source.key(index, EPOCH)))
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        losses = []
        for centre in (np.arange(BINS) + 0.5) / BINS:
            draws = self._draws(float(centre), noise)
            velocity = self.model((1 - centre) * clean + centre * noise, **inputs, draws=draws)
            losses.append(velocity_losses(velocity, pack(clean), pack(noise)))
        return torch.cat(losses)

    def _draws(self, sigma: float, noise: Tensor) -> Draws:
        def one(value: float) -> Tensor:
            return torch.full((1,), value, device=noise.device)

        time = float(model_time(self.config, np.array([sigma]))[0])
        guidance = sum(self.config.guidance) / 2
        return Draws(noise, one(sigma), one(time), one(guidance))

    def images(self, step: int) -> Figures:
        """Restores the first of the chosen pairs, saves the strips, gives the mean of each measure."""
        alone = self.config.parallel != "fsdp"
        chosen = self.chosen[: self.config.validation.images]
        sums = torch.zeros(1 + len(self.measures), dtype=torch.float64, device=self.runtime.device)
        for place, index in enumerate(chosen):
            if not self._restores(place):
                continue
            hq, lq = self._read(index)
            output = self._restore(lq, index)
            if alone or self.runtime.main:
                if values := measure_output(output, hq):
                    sums += sums.new_tensor([1.0, *values])
                strip = np.hstack([lq, self._proxy(lq), output, *([hq] if hq is not None else [])])
                self._save(step, self.source.key(index, EPOCH), strip)
        count, *totals = self.runtime.sum(sums).tolist()
        means = [total / count for total in totals] if count else []
        if not means:
            return {}
        return {"psnr": means[0], "ssim": means[1]} if "psnr" in self.measures else {"niqe": means[0]}

    def _restore(self, lq: np.ndarray, index: int) -> np.ndarray:
        parts = {name: getattr(self.model, name) for name in (*FROZEN, *TRAINED)}
        pipeline = LucidFluxPipeline(**parts, scheduler=make_scheduler())
        pipeline.set_progress_bar_config(disable=True)
        published = self.config.timestep_sampling == "published-script"
        with self.model.computing():
            image = pipeline(
                lq,
                num_inference_steps=self.config.validation.steps,
                guidance_scale=sum(self.config.guidance) / 2,
                height=lq.shape[0],
                width=lq.shape[1],
                schedule="published" if published else "flux",
                generator=torch.Generator().manual_seed(hash64("image", self.source.key(index, EPOCH))),
                output_type="np",
            ).images[0]
        return np.asarray((image * 255).round().astype(np.uint8))

    @torch.no_grad()
    def _proxy(self, lq: np.ndarray) -> np.ndarray:
        unit = _batch(lq).to(self.runtime.device).float() / 255
        proxy = self.model.proxy.restore(unit.to(self.model.proxy.dtype))[0].float()
        return np.asarray((proxy.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8))

    def _read(self, index: int) -> tuple[np.ndarray | None, np.ndarray]:
        if index in self._kept:
            return self._kept[index]
        try:
            return self.source.read(index, EPOCH)
        except Unreadable as error:
            raise InputError(f"a pair of the validation set cannot be read: {error}") from None

    def _save(self, step: int, key: str, strip: np.ndarray) -> None:
        folder = f"{PLACE}/step-{step:08d}" + (f"/{safe_file(self.suite)}" if self.suite else "")
        Folder(self.run).publish(f"{folder}/{safe_file(key)}.png", encode(strip))


def measure_output(output: np.ndarray, hq: np.ndarray | None) -> tuple[float, ...]:
    """PSNR and SSIM, or NIQE without a reference; () where NIQE has no value, as of images under 96 pixels."""
    if hq is not None:
        return psnr(output, hq), ssim(output, hq)
    try:
        return (niqe(output),)
    except ImageError:
        return ()


def _batch(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
