"""From settings to a trainer that is ready: data, model, first weights; what is left when it is through."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import nn

from lucidflux_data.config import digest
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.measures.fingerprints import known_suites
from lucidflux_data.storage.folder import Folder, configure
from lucidflux_data.storage.formats import parse_json
from lucidflux_data.storage.run_folder import RUN_FILE
from lucidflux_model.network.build import CLASSES, TRAINED, Components, build, build_random, fill_random, sizes_of
from lucidflux_model.samples.cached import Sidecars, cache_folder
from lucidflux_model.samples.listed import say_left_out
from lucidflux_model.samples.reading import Unreadable
from lucidflux_model.samples.sources import PairSource, listed_of, open_pairs
from lucidflux_model.samples.stored import ShardPairs
from lucidflux_model.samples.stream import Order, PairDataset, Share, split
from lucidflux_model.samples.suites import SuiteImages
from lucidflux_model.training.checkpoint_files import check_sums
from lucidflux_model.training.checkpoints import NOT_CHECKED, PLACE, latest, read_trained
from lucidflux_model.training.config import TrainConfig
from lucidflux_model.training.contamination import join_marks, mark_of_run, read_mark, suites_shown
from lucidflux_model.training.distributed import Parallel, Runtime
from lucidflux_model.training.loop import Progress, Trainer
from lucidflux_model.training.model import (
    FROZEN,
    VelocityModel,
    freeze,
    initialise,
    peak_flops,
    use_checkpointing,
    useful_flops,
)
from lucidflux_model.training.progress.log import Step
from lucidflux_model.training.progress.report import REPORT, make_report
from lucidflux_model.training.progress.stopping import Stopping
from lucidflux_model.training.progress.validation import EPOCH, Validation, choose
from lucidflux_model.training.run_file import Claim, Data, changes_of, check_split, claim_run
from lucidflux_model.weights import published as weights
from lucidflux_model.weights.files import folder_hashes


class Summary(TypedDict):
    """What `lucidflux train --json` prints."""

    run: str
    model: str
    steps: int
    epoch: int
    corrupt: int  # pairs that were replaced
    skipped: int  # steps without an update
    trained: str  # the exported weights
    report: str
    contaminated: NotRequired[list[str]]  # suites that the run was validated on
    data_changed: NotRequired[list[str]]  # what changed of the data under the run


def train(
    config: TrainConfig,
    sources: Sequence[str],
    out: Path,
    runtime: Runtime,
    init: str | None = None,
    resume: bool = False,
    say: Callable[[str], None] = print,
    on_step: Callable[[Step], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    leaving: Callable[[], bool] = lambda: False,
    data_changed: bool = False,
    warn: Callable[[str], None] = lambda _: None,
    stopping: Stopping | None = None,
) -> Summary:
    """Trains to config.steps; a summary. `sources`: pairs, or clean images with data.online.

    `init`: weights to start from, a file in the layout of lucidflux.pth, a folder of converted weights, or another run.
    `data_changed`: whether a run may go on with other data than before. `warn`: gets a sentence for each part of
    the data that could not be listed as a whole; run.json has it, too. `stopping`: raises StopAsked up to the first
    step.
    """
    check_run(config, out, init, resume, data_changed)
    configure(config.storage.model_dump())
    share = make_share(config, runtime)
    data = config.data
    with runtime.first():
        source = open_source(config, sources, Folder(out), look=runtime.main)
    training, held = split_pairs(config, source, new=latest(out) is None or data_changed)
    with runtime.first():
        suites = open_suites(config)
        if runtime.main:
            tell_listed(source, say, warn)
            mark = suites_seen(config, source, held, say) + [suite.name for suite in suites]
            mark = join_marks(mark, read_mark(Path(init)) if init else [])
            now = Data.of(source, held, config.validation.fraction)
            about = (base_digest(config), label(config), init, mark, data_changed)
            claim_run(out, Claim(config, sources, now, *about), say)
    model = prepare_model(config, runtime, init if latest(out) is None else None)
    extra = None
    if data.cached:
        assert isinstance(source, ShardPairs), "the settings refuse data.cached with data.online"
        extra = Sidecars(cache_folder(Folder(sources[0]), base_digest(config)), source, data.cached)
    dataset = PairDataset(source, Order(training, source.shard_of[training], config.seed, data.window), extra)
    if runtime.main:
        say(f"model: {label(config)}")
        sizes = f"{source.size[1]}x{source.size[0]}"
        say(f"{len(training):,} pairs of {sizes} to train on, {len(held):,} held out, {runtime.world} process(es)")
    parallel = Parallel(model, runtime, config.parallel, config.shard_frozen)
    trainer = Trainer(config, out, runtime, parallel, dataset, share, say=say, on_step=on_step)
    trainer.stop, trainer.leaving, trainer.stopping = stop, leaving, stopping or Stopping()
    trainer.validations = make_validations(trainer, source, held, suites)
    trainer.progress.contaminated = mark_of_run(out)
    if runtime.main and trainer.progress.contaminated:
        say(f"contaminated: validated on {', '.join(trainer.progress.contaminated)}; leaderboards will say so")
    peak = peak_flops(runtime.device)
    trainer.work = (useful_flops(config.model.name, *source.size), peak) if peak else None
    progress = trainer.fit(resume)
    with trainer.stopping.working():
        return finish(trainer, progress)


def open_source(
    config: TrainConfig, sources: Sequence[str], index: Folder, look: bool = True, keep: bool = True
) -> PairSource:
    """The pairs that a run reads; `index`, `look` and `keep` as of open_shards."""
    data = config.data
    return open_pairs(sources, data.online, config.seed, data.online_settings, index, look, keep)


def tell_listed(source: PairSource, say: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """What the listing of the data left out; its warnings are said at every start."""
    listed = listed_of(source)
    for warning in listed["warnings"]:
        warn(warning)
    if listed["left_out"]:
        say(say_left_out(listed["left_out"]))


def split_pairs(config: TrainConfig, source: PairSource, new: bool) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation) indices. InputError where nothing is left to train on, and for a `new` split where over
    twice the asked share would be held out."""
    groups = source.groups
    training, held = split(groups, config.validation.fraction)
    if not len(training):
        raise InputError("all of the pairs are held out for validation: lower validation.fraction")
    if new and len(held):
        largest = Counter(groups[index] for index in held.tolist()).most_common(1)[0]
        check_split(len(held), len(groups), config.validation.fraction, largest)
    return training, held


def check_run(config: TrainConfig, out: Path, init: str | None, resume: bool, data_changed: bool = False) -> None:
    """Wrong combinations of settings raise ConfigError before anything is read."""
    if data_changed and not resume:
        raise ConfigError("--data-changed belongs to --resume: a new run takes the data as they are")
    sizes_of(config.model.name)
    check_base(config)
    if "://" in str(out):
        raise ConfigError("--out of a training run is a folder that all of its nodes share, not a url")
    if latest(out) is not None and not resume:
        raise ConfigError(f"{out} holds a run: --resume goes on with it, another --out starts anew")
    if latest(out) is not None and init is not None:
        raise ConfigError(f"{out} goes on from its own checkpoint: leave --init out, or choose another --out")


def make_share(config: TrainConfig, runtime: Runtime) -> Share:
    """ConfigError where the batch cannot be dealt out evenly."""
    each, left = divmod(config.batch_size, runtime.world)
    if left or not each:
        raise ConfigError(f"batch_size={config.batch_size} cannot be dealt to {runtime.world} processes evenly")
    micro = config.micro_batch or each
    if each % micro:
        raise ConfigError(f"micro_batch={micro} does not divide the {each} samples of a process")
    return Share(config.batch_size, micro, runtime.rank, runtime.world)


def open_suites(config: TrainConfig) -> list[SuiteImages]:
    """The benchmark suites to validate on. InputError for what is not one, ConfigError for a name given twice."""
    suites = [SuiteImages(folder) for folder in config.validation.suites]
    names = [suite.name for suite in suites]
    if len(set(names)) < len(names):
        raise ConfigError(f"validation.suites names a suite twice: {', '.join(sorted(names))}")
    return suites


def suites_seen(config: TrainConfig, source: PairSource, held: np.ndarray, say: Callable[[str], None]) -> list[str]:
    """Suites whose images are among the pairs that are validated on, by the fingerprints of those prepared here."""
    files = sorted(known_suites().glob("*.parquet"))
    if not files or not len(held):
        return []
    pictures = []
    for index in choose_pairs(config, source, held):
        with contextlib.suppress(Unreadable):  # the validation itself says so
            pictures.append(source.read(index, EPOCH)[0])
    shown, lacking = suites_shown(pictures, files)
    for name in shown:
        say(f"pairs that are held out for validation show images of the benchmark suite {name}")
    for name in lacking:
        say(
            f"{known_suites() / name} is damaged, of another version, or does not say that it has every image: "
            "that suite is not looked for, or not as a whole; `lucidflux bench prepare` makes it again"
        )
    return shown


def make_validations(
    trainer: Trainer, source: PairSource, held: np.ndarray, suites: Sequence[SuiteImages]
) -> list[Validation]:
    """Of the pairs held out, and of each suite. Where the fraction leaves no pair, that is said."""
    config = trainer.config
    about = (trainer.runtime, trainer.run)
    made = []
    if len(held):
        made.append(Validation(trainer.model, config, source, choose_pairs(config, source, held), *about))
    elif config.validation.fraction and trainer.runtime.main:
        trainer.say("no group of pairs falls into validation.fraction: nothing is held out")
    for suite in suites:
        chosen = choose(range(len(suite)), suite.keys, suite.keys, config.validation.samples)
        made.append(Validation(trainer.model, config, suite, chosen, *about, suite.name))
    return made


def choose_pairs(config: TrainConfig, source: PairSource, held: np.ndarray) -> list[int]:
    groups, indices = source.groups, held.tolist()
    keys = {index: source.key(index, EPOCH) for index in indices}
    return choose(indices, {index: groups[index] for index in indices}, keys, config.validation.samples)


def base_digest(config: TrainConfig) -> str:
    """Stands for the weights of the frozen parts: the hashes of their files, or the seed of random ones."""
    base = config.model
    if base.weights is None:
        return digest([base.name, base.seed])
    hashes = folder_hashes(Path(base.weights))
    return digest(sorted(item for item in hashes.items() if item[0].split("/")[0] in FROZEN))


def label(config: TrainConfig) -> str:
    if config.model.name == "tiny":
        return "tiny (random backbone: checks the plumbing, restores nothing)"
    return config.model.name


def prepare_model(config: TrainConfig, runtime: Runtime, init: str | None) -> VelocityModel:
    """The model on its device: frozen parts from the weights, trained ones from `init` or begun afresh."""
    if config.model.name == "tiny" and runtime.device.type == "cpu":
        torch.set_num_threads(1)  # its matrices are too small to share
    bf16 = computes_in_bf16(config, runtime.device)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    components = frozen_parts(config, torch.bfloat16 if bf16 else torch.float32)
    components |= build(sizes_of(config.model.name), "cpu", parts=TRAINED)
    for name in TRAINED:
        fill_random(components[name], config.seed, name)
    model = VelocityModel(components, autocast=bf16)
    initialise(model, config.initialisation)
    if init is not None:
        load_trained(model, init, config.model.name)
    elif config.connector is not None:
        weights.load_one("connector", model.connector, Path(config.connector))
        freeze(model)
    model.to(runtime.device)
    use_checkpointing(model, config.checkpointing)
    if config.compile:
        model.transformer.compile_repeated_blocks()
        model.conditioner.compile_repeated_blocks()
    return model


def computes_in_bf16(config: TrainConfig, device: torch.device) -> bool:
    return config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")


def frozen_parts(config: TrainConfig, dtype: torch.dtype, names: Sequence[str] = FROZEN) -> Components:
    """In `dtype`, the proxy in float32 as at inference. ConfigError without weights, InputError for damaged ones."""
    base = config.model
    check_base(config, names)
    if base.weights is None:
        return build_random("tiny", base.seed, dtype=dtype, parts=names)
    folder = Path(base.weights)
    try:
        return {name: _pretrained(folder / name, name, dtype) for name in names}
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from None


def check_base(config: TrainConfig, names: Sequence[str] = FROZEN) -> None:
    """ConfigError where weights are needed and not given, InputError where some are not there."""
    base = config.model
    if base.weights is None and base.name != "tiny":
        raise ConfigError(
            f"{base.name} needs --weights FOLDER with the frozen parts: `lucidflux weights download` and `convert` "
            "make it; --model tiny runs without"
        )
    if base.weights is not None:
        folder = Path(base.weights)
        lacking = [name for name in names if not (folder / name / "config.json").is_file()]
        if lacking:
            raise InputError(f"{folder} has no {', '.join(lacking)}: see `lucidflux weights convert`")


def _pretrained(folder: Path, name: str, dtype: torch.dtype) -> Any:
    kind = torch.float32 if name == "proxy" else dtype
    return CLASSES[name].from_pretrained(str(folder), dtype=kind, local_files_only=True, use_safetensors=True).eval()


def load_trained(model: VelocityModel, init: str, name: str) -> None:
    """Weights to start from, into the trained parts, in float32. InputError where they do not fit."""
    path = Path(init)
    if path.is_file():
        weights.load_lucidflux(model.conditioner, model.connector, path)
    else:
        for part, loaded in _read_parts(path, name).items():
            try:
                getattr(model, part).load_state_dict(loaded.state_dict(), strict=True)
            except RuntimeError:
                raise InputError(f"{init} is of another model than {name}: its {part} has other shapes") from None
    model.conditioner.float()
    model.connector.float()
    freeze(model)  # loading replaced the parameters


def _read_parts(path: Path, name: str) -> dict[str, nn.Module]:
    if (path / PLACE).is_dir():
        checkpoint = latest(path)
        if checkpoint is None:
            raise InputError(f"{path} has no checkpoint yet")
        check_sums(checkpoint)
        return read_trained(checkpoint, name)
    if (path / "conditioner" / "config.json").is_file():
        return {
            part: CLASSES[part].from_pretrained(str(path / part), local_files_only=True, use_safetensors=True)
            for part in TRAINED
        }
    raise InputError(f"{path} is neither a file of trained weights, nor a folder of them, nor a run")


def finish(trainer: Trainer, progress: Progress) -> Summary:
    """Exports the last checkpoint; gives the summary."""
    out = trainer.run
    exported = out / "trained.safetensors"
    if trainer.runtime.main:
        export(out, exported, say=trainer.say)
        Folder(out).publish(REPORT, make_report(out))
    trainer.runtime.barrier()
    summary: Summary = {
        "run": str(out),
        "model": label(trainer.config),
        "steps": progress.step,
        "epoch": progress.epoch,
        "corrupt": progress.corrupt,
        "skipped": progress.skipped,
        "trained": str(exported),
        "report": str(out / REPORT),
    }
    if progress.contaminated:
        summary["contaminated"] = progress.contaminated
    if changes := changes_of(out):
        summary["data_changed"] = [f"after step {change['after_step']}: {change['what']}" for change in changes]
    return summary


def export(run: Path, out: Path, averaged: bool = True, say: Callable[[str], None] = print) -> None:
    """The newest checkpoint of a run in the layout of lucidflux.pth, the moving average where there is one.
    VerificationError where its files are not those that were saved. A folder without sums is named through `say`."""
    checkpoint = latest(run)
    if checkpoint is None:
        raise InputError(f"{run} has no checkpoint to export")
    if not check_sums(checkpoint):
        say(f"warning: {checkpoint.name} {NOT_CHECKED}")
    model = parse_json((run / RUN_FILE).read_text())["config"]["model"]["name"]
    parts = read_trained(checkpoint, model, averaged)
    weights.save_lucidflux(parts["conditioner"], parts["connector"], out, mark_of_run(run))
