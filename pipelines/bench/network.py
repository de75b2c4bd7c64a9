"""A published network from a file of weights as a method: `bench infer --model FILE.pth`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.methods.method_file import MethodFile
from lucidflux_data.config import resolve
from lucidflux_data.errors import ConfigError, needs_extra
from lucidflux_data.storage.names import safe_file
from lucidflux_model.weights.files import file_sha256
from pipelines.bench.making import Make, Place, restore_all
from pipelines.bench.own import describe_here
from pipelines.restoration.config import NetworkConfig

SETTINGS = ("tile", "overlap")
HASH = 12  # digits of the weights' sha256 in the name of a method


def configure_network(file: str, settings: list[str], place: Place) -> NetworkConfig:
    """`settings`: tile=N, overlap=N. ConfigError for others."""
    for item in settings:
        if item.partition("=")[0] not in SETTINGS:
            raise ConfigError(f"--set {item}: a network of a file has the settings {', '.join(SETTINGS)}")
    model = {"file": file, "extra_archs": place.extra_archs, "device": place.device}
    return resolve(NetworkConfig, {"model": model}, None, settings)


def scale_of(file: str, extra_archs: bool) -> int:
    """Side of an output over the side of its input."""
    with needs_extra("networks"):
        from pipelines.restoration.network import load_network
    config = configure_network(file, [], Place(extra_archs=extra_archs))
    return int(load_network(config.model).scale)


def describe_network(file: str, scale: int, settings: list[str], place: Place) -> tuple[MethodFile, Make]:
    """NAME[HASH], HASH the first digits of the weights' sha256; other settings than the default follow it.

    ConfigError where the network's scale is not `scale`; InputError as of load_network.
    """
    with needs_extra("networks"):
        from lucidflux_model.weights.tensors import read_mark
        from pipelines.restoration.network import load_network, pick_tile
    config = configure_network(file, settings, place)
    sha256, network = file_sha256(Path(file)), load_network(config.model)
    if network.scale != scale:
        raise ConfigError(f"{file} makes its outputs {network.scale} times the input, and {scale} times is asked for")
    changed = [f"{key}={value}" for key in SETTINGS if (value := getattr(config, key)) != _default(key)]
    name = safe_file(f"{Path(file).stem}[{','.join([sha256[:HASH], *changed])}]")
    values = {"architecture": str(network.architecture.name), "scale": str(scale)}
    values |= {"tile": str(pick_tile(config, network)), "overlap": str(config.overlap)}
    about = describe_here(name, values, ("spandrel",))
    about["weights"] = sha256
    about["contaminated"] = read_mark(Path(file))
    return about, lambda *given: restore_all(lambda _seed: config, place.device, *given)


def _default(key: str) -> object:
    return NetworkConfig.model_fields[key].default
