"""The one module that imports pyiqa: its models by name, and what has to be mended before they load."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lucidflux_data.errors import ConfigError, LucidFluxError, VerificationError
from lucidflux_data.iqa.fidelity import gaussian_distance
from lucidflux_data.iqa.pins import check_files
from lucidflux_data.messages import UnpackError

ONLY_TENSORS, ANYTHING = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # read by torch.load


def frechet_distance(outputs: str, references: str, device: str = "cpu") -> float:
    """FID of two folders of images: pyiqa's features of its mode `clean`. Lower is better; biased upwards for small
    sets."""
    model = pyiqa_model("fid", device)
    from pyiqa.archs.fid_arch import get_folder_features

    options = {"num_workers": 0, "batch_size": 8, "device": device, "mode": "clean", "verbose": False}
    first, second = (get_folder_features(folder, model.net.model, **options) for folder in (outputs, references))
    return gaussian_distance(first, second)


def pyiqa_model(name: str, device: str) -> Any:
    """A metric of pyiqa, from weight files that are pinned or trusted (`pins`). VerificationError for another file, or
    one that holds something else than tensors; ConfigError where something is missing."""
    require_modules(name, "iqa", "torch", "pyiqa")
    files = check_files(name)
    import pyiqa
    import torch

    torch.set_num_threads(1)
    try:
        # It announces its files on standard output, where --json stands.
        mended = MENDS.get(name, contextlib.nullcontext)()
        with contextlib.redirect_stdout(io.StringIO()), _tensors_alone(), _reading(files), _without_network(), mended:
            return pyiqa.create_metric(name, device=device)
    except LucidFluxError:
        raise
    except ModuleNotFoundError as error:
        raise ConfigError(f"{name} needs the package {error.name}: pip install 'lucidflux[iqa]'") from None
    except UnpackError:
        raise VerificationError(
            f"{name} was not loaded: one of its weight files holds something else than tensors, which could be code. "
            f"`lucidflux bench doctor` names the files, below {torch.hub.get_dir()}: fetch them again"
        ) from None
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"{name} could not be loaded ({type(error).__name__}: {said}): its weights are looked for in "
            f"{torch.hub.get_dir()} (TORCH_HOME) and the Hugging Face cache (HF_HOME), and `lucidflux bench doctor` "
            "names each file; or choose --iqa niqe or --iqa none"
        ) from None


@contextlib.contextmanager
def _tensors_alone() -> Iterator[None]:
    """pyiqa asks torch to unpickle its weight files whatever they name (`weights_only=False`): here torch reads tensors
    and nothing that can be called, whatever is asked."""
    before = {name: os.environ.pop(name, None) for name in (ONLY_TENSORS, ANYTHING)}
    os.environ[ONLY_TENSORS] = "1"
    try:
        yield
    finally:
        del os.environ[ONLY_TENSORS]
        os.environ.update({name: value for name, value in before.items() if value is not None})


@contextlib.contextmanager
def _reading(files: Sequence[Path]) -> Iterator[None]:
    """torch reads these files alone: another release of pyiqa may ask for one that nobody has compared."""
    import torch

    compared = {os.path.realpath(file) for file in files}

    def guarded(load: Callable[..., Any]) -> Callable[..., Any]:
        def load_compared(file: Any, *given: Any, **named: Any) -> Any:
            path = str(getattr(file, "name", file))
            if os.path.realpath(path) not in compared:
                raise VerificationError(f"{path} is not opened: it is none of the files whose sha256 was compared")
            return load(file, *given, **named)

        return load_compared

    load, load_script = torch.load, torch.jit.load
    torch.load, torch.jit.load = guarded(load), guarded(load_script)
    try:
        yield
    finally:
        torch.load, torch.jit.load = load, load_script


@contextlib.contextmanager
def _without_network() -> Iterator[None]:
    """Files of the Hugging Face cache are taken as they were compared: no newer revision is fetched."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _mend_qalign() -> None:
    """Q-Align of pyiqa 0.1.16 calls `invert_attention_mask`, which transformers 5.8 has and 5.24 has no more: 0 where a
    token is attended to, the smallest number of the type elsewhere. Also keeps transformers quiet, and from running
    what a repository brings along: pyiqa trusts remote code, though its own classes are all that Q-Align needs."""
    import torch
    import transformers
    from pyiqa.archs.q_align.visual_encoder import MplugOwlVisualAbstractorModel as Abstractor

    transformers.dynamic_module_utils.create_dynamic_module = _refuse_code  # all such code goes through it
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not hasattr(Abstractor, "invert_attention_mask"):
        Abstractor.invert_attention_mask = lambda self, mask: (
            (1 - mask[:, None, None, :].to(self.dtype)) * torch.finfo(self.dtype).min
        )


@contextlib.contextmanager
def _mended_qalign() -> Iterator[None]:
    _mend_qalign()
    yield


@contextlib.contextmanager
def _mended_liqe() -> Iterator[None]:
    """LIQE of pyiqa 0.1.16 keeps what its text encoder makes in a file beside the weights, and takes that file the next
    time, whatever weights there are by then. Here the file is in a folder that goes."""
    from pyiqa.archs import liqe_arch

    before = liqe_arch.DEFAULT_CACHE_DIR
    with tempfile.TemporaryDirectory() as folder:
        liqe_arch.DEFAULT_CACHE_DIR = folder
        try:
            yield
        finally:
            liqe_arch.DEFAULT_CACHE_DIR = before


@contextlib.contextmanager
def _mended_fgresq() -> Iterator[None]:
    """FGResQ of pyiqa 0.1.16 is written for a CLIPVisionModel with a part `vision_model`, which transformers 5.24 has
    no more: its parts are one name shorter. pyiqa only warns of weights that fit nowhere, and scores with random ones;
    here a part without weights is an error."""
    from pyiqa.archs import fgresq_arch
    from transformers import CLIPVisionModel

    load, warn = fgresq_arch.load_checkpoint, fgresq_arch.FGResQ._warn_load_mismatch
    flat = not _has_part(CLIPVisionModel, "vision_model")

    def load_renamed(path: str) -> dict[str, Any]:
        return {name.replace("vision_model.", ""): values for name, values in load(path).items()}

    def refuse_holes(self: Any, name: str, missing: Sequence[str], unexpected: Sequence[str]) -> None:
        missing = self._filter_expected_missing_keys(missing)
        if missing:
            raise ValueError(f"{name} lack {len(missing)} parts of the network, as {missing[0]}")

    fgresq_arch.FGResQ._warn_load_mismatch = refuse_holes
    if flat:
        fgresq_arch.load_checkpoint = load_renamed
        CLIPVisionModel.vision_model = property(lambda self: self)
    try:
        yield
    finally:
        fgresq_arch.load_checkpoint, fgresq_arch.FGResQ._warn_load_mismatch = load, warn
        if flat:
            del CLIPVisionModel.vision_model


def _has_part(kind: Any, name: str) -> bool:
    """Whether networks of a class of transformers have a part of this name; made without memory for its weights."""
    import torch

    with torch.device("meta"):
        return hasattr(kind(kind.config_class()), name)


@contextlib.contextmanager
def _mended_afine() -> Iterator[None]:
    """A-FINE of pyiqa 0.1.16 looks for OpenAI's file in ~/.cache/clip, and pyiqa's other metrics in torch's hub folder:
    here it is one file in one place."""
    import torch
    from pyiqa.archs import afine_arch

    load = afine_arch.load
    afine_arch.load = functools.partial(load, download_root=os.path.join(torch.hub.get_dir(), "clip"))
    try:
        yield
    finally:
        afine_arch.load = load


MENDS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "qalign": _mended_qalign,
    "liqe_mix": _mended_liqe,
    "fgresq": _mended_fgresq,
    "afine_all_scale": _mended_afine,
}


def _refuse_code(name: str | os.PathLike[str]) -> None:
    raise VerificationError(f"code that a repository of weights brings along is not run ({name})")


def require_modules(name: str, extra: str, *packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"{name} needs {package}: pip install 'lucidflux[{extra}]', or choose --iqa niqe or --iqa none"
            )


def image_tensor(images: np.ndarray | Sequence[np.ndarray]) -> Any:
    """float32 Nx3xHxW in 0..1, as pyiqa takes it, of uint8 HxWx3 or NxHxWx3."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(images))
    return (tensor if tensor.ndim == 4 else tensor[None]).permute(0, 3, 1, 2).float() / 255
