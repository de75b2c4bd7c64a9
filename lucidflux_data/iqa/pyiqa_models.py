"""The one module that imports pyiqa: its models by name, and what has to be mended before they load."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
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
        with contextlib.redirect_stdout(io.StringIO()), _tensors_alone(), _reading(files), _without_network():
            if name == "qalign":
                _mend_qalign()
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
