"""`lucidflux train`: one loop, from first to last.

    sources -> order -> loader -> encode (frozen) -> draws -> velocity -> loss -> gradient -> optimizer -> average
    RUN/run.json, metrics.jsonl, checkpoints/, validation/, trained.safetensors (layout of lucidflux.pth), report.html

A run that was stopped, killed or moved to another number of processes goes on as if nothing had happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from lucidflux_data.config import dotted
from lucidflux_data.errors import InputError, Interrupted, LucidFluxError
from lucidflux_model.network.conditioner import pack
from lucidflux_model.samples.stream import Batch, PairDataset, Pieces, Share, load, make_error
from lucidflux_model.training.checkpoint_files import check_sums
from lucidflux_model.training.checkpoints import NOT_CHECKED, Checkpoints, latest
from lucidflux_model.training.config import BINS, TrainConfig
from lucidflux_model.training.contamination import join_marks
from lucidflux_model.training.distributed import Parallel, Runtime, clip_gradient
from lucidflux_model.training.model import VelocityModel
from lucidflux_model.training.objective import draw, sigma_bins, velocity_losses
from lucidflux_model.training.optimizer import MovingAverage, learning_rate, make_optimizer
from lucidflux_model.training.progress.log import Speed, Step, TrainLog, Validated
from lucidflux_model.training.progress.stopping import StopAsked, Stopping
from lucidflux_model.training.progress.trackers import Trackers
from lucidflux_model.training.progress.validation import Validation
from lucidflux_model.training.run_file import starts_epoch


@dataclass
class Progress:
    """What a checkpoint remembers beside tensors. `consumed` samples of `epoch`; `contaminated`: by which suites."""

    step: int = 0
    epoch: int = 0
    consumed: int = 0
    corrupt: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    contaminated: list[str] = field(default_factory=list)


@dataclass
class Trainer:
    """A run in one process. `say`, `on_step`: lines and figures for people, from process 0."""

    config: TrainConfig
    run: Path
    runtime: Runtime
    parallel: Parallel
    dataset: PairDataset
    share: Share
    validations: list[Validation] = field(default_factory=list)  # held-out pairs, benchmark suites
    work: tuple[float, float] | None = None  # useful FLOPs of a sample, FLOP/s of the device
    say: Callable[[str], None] = print
    on_step: Callable[[Step], None] = lambda _: None
    stop: Callable[[], bool] = lambda: False  # asked after every step: end with a checkpoint
    stopping: Stopping = field(default_factory=Stopping)  # what a signal does meanwhile
    leaving: Callable[[], bool] = lambda: False  # asked after every step: a node will be taken away, save once

    def __post_init__(self) -> None:
        self.model: VelocityModel = self.parallel.model
        self.trained = self.parallel.parameters()
        self.optimizer = make_optimizer(list(self.trained.values()), self.config)
        self.average = MovingAverage(self.trained, self.config.ema) if self.config.ema else None
        self.checkpoints = Checkpoints(self.run, self.config.keep_checkpoints, self.runtime)
        self.progress = Progress()
        self._started = self._waited = 0.0  # of the step: when it began, seconds without its data
        self._left = False  # whether the checkpoint before leaving has been written

    def fit(self, resume: bool) -> Progress:
        """To the last step. Raises Interrupted after a signal, InputError when the data or the numbers go bad."""
        with self.stopping.working():  # torch takes whatever is raised in its loading for a damaged checkpoint
            if resume and (path := latest(self.run)) is not None:
                self._load(path)
            return self._fit()

    def _fit(self) -> Progress:
        log = self._open_log() if self.runtime.main else None
        try:
            batches = self._batches()
            while self.progress.step < self.config.steps:
                step = self.progress.step + 1
                validates = step % self.config.validation.every == 0 or step == self.config.steps
                pieces = self._fetch(batches, self.validations if validates else [])
                line, stop = self._step(pieces)
                if self.validations and validates:
                    line["validation"] = self._validated(step)
                if log is not None:
                    log.write(line)
                    self.on_step(line)
                self._after(step, stop)
        finally:
            if log is not None:
                log.close()
        return self.progress

    def _open_log(self) -> TrainLog:
        settings = dotted(self.config.model_dump(mode="json"))
        trackers = Trackers(self.run, self.config.trackers, settings, self.say)
        return TrainLog(self.run, self.progress.step, self.config.tensorboard, trackers)

    def _batches(self) -> Iterator[Batch]:
        start = self.progress.epoch * len(self.dataset.order) + self.progress.consumed
        pieces = Pieces(self.share, start, self.config.steps - self.progress.step)
        return load(self.dataset, pieces, self.config.data.workers, pin=self.runtime.device.type == "cuda")

    def _step(self, pieces: list[Batch]) -> tuple[Step, bool]:
        """One step of the optimizer over one global batch; its line of metrics, and whether a process was signalled."""
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(2 * BINS, dtype=torch.float64, device=self.runtime.device)
        corrupt = 0
        for piece, batch in enumerate(pieces):
            corrupt += sum(batch["corrupt"])
            self._tell_corrupt(batch)
            losses, sigma = self._losses(batch, last=piece == self.share.pieces - 1)
            bins = sigma_bins(sigma)
            sums.index_add_(0, bins, losses.double())
            sums.index_add_(0, BINS + bins, torch.ones_like(losses, dtype=torch.float64))
        norm = clip_gradient(list(self.trained.values()), self.config.clip)
        gathered = self.runtime.sum(torch.cat([sums, sums.new_tensor([corrupt, self.stop()])])).tolist()
        rate = learning_rate(self.config, self.progress.step + 1)
        loss = sum(gathered[:BINS]) / self.config.batch_size
        fine = torch.isfinite(torch.tensor([norm, loss])).all().item()
        if fine:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.progress.step)
        self._advance(int(gathered[2 * BINS]), bool(fine))
        by_sigma = [
            total / count if count else None for total, count in zip(gathered[:BINS], gathered[BINS:-2], strict=True)
        ]
        now, speed = self.progress, self._speed()
        line: Step = {
            "step": now.step,
            "epoch": now.epoch,
            "consumed": now.consumed,
            "corrupt": now.corrupt,
            "skipped": now.skipped,
            "skipped_in_a_row": now.skipped_in_a_row,
            "loss": loss,
            "loss_by_sigma": by_sigma,
            "grad_norm": norm,
            "lr": rate,
            "seconds": speed["seconds"],
            "images_per_s": speed["images_per_s"],
            "data_wait": speed["data_wait"],
            "peak_memory_bytes": speed["peak_memory_bytes"],
        }
        if "mfu" in speed:
            line["mfu"] = speed["mfu"]
        return line, gathered[-1] > 0

    def _fetch(self, batches: Iterator[Batch], validations: list[Validation]) -> list[Batch]:
        """The pieces of a step, and what is measured after it. Where a process cannot have its own, all save what has
        been reached and stop."""
        found: list[Batch] = []
        trouble: LucidFluxError | None = None
        self._started = time.perf_counter()
        try:
            with self.stopping.waiting():
                for _ in range(self.share.pieces):
                    found.append(next(batches))
            self._waited = time.perf_counter() - self._started
            for validation in validations:
                validation.load()
        except LucidFluxError as error:
            trouble = error
        except StopAsked:
            trouble = Interrupted("")  # all that there is to say is where it stopped
        self._stop_where(trouble)
        self._started = time.perf_counter() - self._waited  # what is validated is no part of the step
        return found

    def _stop_where(self, trouble: LucidFluxError | None) -> None:
        """Raises the trouble of any process in all of them, after a checkpoint of the last step."""
        failed = self.runtime.sum(torch.tensor([float(trouble is not None)], device=self.runtime.device))
        if not failed.item():
            return
        error = self.runtime.agree_on(trouble)
        step = self.progress.step
        path = latest(self.run)
        if step and self.progress.skipped_in_a_row == 0 and (path is None or not path.name.endswith(f"-{step:08d}")):
            self.checkpoints.save(self._state(), asdict(self.progress))
        reason = str(error).removesuffix(": repeat the command to resume")
        goes_on = ": --resume goes on" if isinstance(error, Interrupted) else ""
        why = f"{reason}; " if reason else ""
        raise make_error(error.exit_code, f"{why}stopped after step {step}, checkpoint {self._last()}{goes_on}")

    def _losses(self, batch: Batch, last: bool) -> tuple[Tensor, Tensor]:
        """Losses and sigmas of a piece, B each; adds its gradient."""
        inputs = self.model.encode(batch)
        clean = inputs.pop("latent")
        draws = draw(self.config, batch["position"], clean.shape[1:], self.runtime.device)
        sigma = draws.sigma[:, None, None, None]
        noisy = (1 - sigma) * clean + sigma * draws.noise
        with self.parallel.accumulating(last):
            velocity = self.parallel.call(noisy, **inputs, draws=draws)
            losses = velocity_losses(velocity, pack(clean), pack(draws.noise))
            # DDP and FSDP average over processes, so each divides by its own samples of the whole batch.
            (losses.sum() * self.runtime.world / self.config.batch_size).backward()
        return losses.detach(), draws.sigma

    def _advance(self, corrupt: int, fine: bool) -> None:
        now, size = self.progress, len(self.dataset.order)
        now.step += 1
        position = now.epoch * size + now.consumed + self.config.batch_size
        now.epoch, now.consumed = divmod(position, size)
        now.corrupt += corrupt
        now.skipped += not fine
        now.skipped_in_a_row = 0 if fine else now.skipped_in_a_row + 1

    def _after(self, step: int, stop: bool) -> None:
        """Guards, checkpoints and signals, after a step."""
        now, config = self.progress, self.config
        if now.skipped_in_a_row >= config.max_skipped:
            raise InputError(
                f"loss or gradient was not finite in {now.skipped_in_a_row} steps in a row, up to step {step}: look at "
                f"the data, or lower learning_rate; the last checkpoint, {self._last()}, is from before"
            )
        if now.corrupt > config.data.max_corrupt:
            raise InputError(
                f"{now.corrupt} pairs could not be read, over data.max_corrupt={config.data.max_corrupt}: "
                "see `lucidflux-data verify --deep`"
            )
        leaving = self.leaving()
        due = step % config.checkpoint_every == 0 or step == config.steps or (leaving and not self._left)
        if now.skipped_in_a_row == 0 and (stop or due):
            self.checkpoints.save(self._state(), asdict(now))
            self._left = leaving
        if stop and step < config.steps:
            raise Interrupted(f"stopped after step {step}, checkpoint {self._last()}: --resume goes on")

    def _last(self) -> str:
        path = latest(self.run)
        return path.name if path else "none yet"

    def _state(self) -> dict[str, object]:
        parts = torch.nn.ModuleDict({"conditioner": self.model.conditioner, "connector": self.model.connector})
        state = {"model": parts.state_dict(), "optimizer": get_optimizer_state_dict(parts, self.optimizer)}
        return state | ({"ema": self.average.shadows} if self.average is not None else {})

    def _load(self, path: Path) -> None:
        with self.runtime.first():
            if self.runtime.main and not check_sums(path):
                self.say(f"warning: {path.name} {NOT_CHECKED}")
        state = self._state()
        marked = self.progress.contaminated
        self.progress = Progress(**self.checkpoints.load(path, state))
        self.progress.contaminated = join_marks(marked, self.progress.contaminated)
        if starts_epoch(self.run, self.progress.step) and self.progress.consumed:
            self.progress.epoch, self.progress.consumed = self.progress.epoch + 1, 0
        parts = torch.nn.ModuleDict({"conditioner": self.model.conditioner, "connector": self.model.connector})
        set_optimizer_state_dict(parts, self.optimizer, state["optimizer"])
        if self.runtime.main:
            self.say(f"goes on after step {self.progress.step:,}")

    def _validated(self, step: int) -> Validated:
        """Losses of the weights and of their average; images of the average, which is what is exported."""
        found = [validation.losses() for validation in self.validations]
        with self.average.in_place() if self.average is not None else nullcontext():
            for validation, figures in zip(self.validations, found, strict=True):
                if self.average is not None and (averaged := validation.losses()):
                    figures["ema_loss"] = averaged["loss"]
                    figures["ema_loss_by_sigma"] = averaged["loss_by_sigma"]
                figures.update(validation.images(step))
                validation.unload()
        figures_found: Validated = {}
        for validation, figures in zip(self.validations, found, strict=True):
            if validation.suite is None:
                figures_found = {**figures_found, **figures}
            else:
                figures_found.setdefault("suites", {})[validation.suite] = figures
        return figures_found

    def _tell_corrupt(self, batch: Batch) -> None:
        for why in batch["why"]:
            if why:
                self.say(f"replaced a pair that cannot be read: {why}")

    def _speed(self) -> Speed:
        """Of this process, after all that the device was given is done."""
        cuda = self.runtime.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize(self.runtime.device)
        seconds = time.perf_counter() - self._started
        figures: Speed = {
            "seconds": round(seconds, 4),
            "images_per_s": round(self.config.batch_size / seconds, 3),
            "data_wait": round(self._waited / seconds, 4),
            "peak_memory_bytes": peak_memory(self.runtime.device),
        }
        if self.work is not None:
            useful, peak = self.work
            figures["mfu"] = round(useful * self.config.batch_size / self.runtime.world / seconds / peak, 4)
        return figures


def peak_memory(device: torch.device) -> int:
    """Bytes: of the allocator on a GPU, of the process elsewhere."""
    import resource

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
