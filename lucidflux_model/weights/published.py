"""Weight files: read without running code, refused when they are not what they should be, converted both ways.

lucidflux.pth, flux1-dev.safetensors, ae.safetensors, general_swinir_v1.ckpt   the published files
a folder with one sub-folder for each component, safetensors inside            ours, what `from_pretrained` reads
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lucidflux_data.errors import Interrupted
from lucidflux_model.weights import layouts
from lucidflux_model.weights.layouts import Entry
from lucidflux_model.weights.tensors import MARK, read_tensors
from lucidflux_model.weights.writing import aside, write_tensors

# Names of the five parts of lucidflux.pth ("ldr" is its word for the proxy).
LUCIDFLUX_PARTS = ("condition_lq", "condition_ldr", "modulation_lq", "modulation_ldr", "connector")


def split_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix.`, without it."""
    return {key.removeprefix(f"{prefix}."): tensor for key, tensor in state.items() if key.startswith(f"{prefix}.")}


# What holds the weights among other things of a checkpoint: names outside it are not weights.
CONTAINERS = ("state_dict", "params_ema", "params", "model.diffusion_model")
# What a trainer puts around a whole module (DDP), and what torch.compile, FSDP and checkpointing put inside one, too.
WRAPPER = "module"
INNER = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def strip_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that trainers leave, in any order and depth. Layouts are checked afterwards, key by key, so
    that what is taken here is whole or refused."""
    state = _without_inner(state)
    while True:
        prefix = next((name for name in CONTAINERS if any(key.startswith(f"{name}.") for key in state)), None)
        if prefix is None and state and all(key.startswith(f"{WRAPPER}.") for key in state):
            prefix = WRAPPER
        if prefix is None:
            return state
        state = split_prefix(state, prefix)


def _without_inner(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the words that wrappers put into their middle; where two then are one, all keep their own."""
    short = {key: ".".join(part for part in key.split(".") if part not in INNER) for key in state}
    if len(set(short.values())) < len(short):
        return dict(state)
    return {short[key]: tensor for key, tensor in state.items()}


def layouts_of(part: str, module: Any) -> dict[str, tuple[nn.Module, list[Entry]]]:
    """Published name -> (module, layout), of one of our components. {} for those that are stored in one layout only."""
    if part == "conditioner":
        return {
            "condition_lq": (module.branch_lq, layouts.branch_layout(module.branch_lq)),
            "condition_ldr": (module.branch_proxy, layouts.branch_layout(module.branch_proxy)),
            "modulation_lq": (module.modulation_lq, layouts.modulation_layout()),
            "modulation_ldr": (module.modulation_proxy, layouts.modulation_layout()),
        }
    makers: dict[str, tuple[str, Callable[[Any], list[Entry]]]] = {
        "connector": ("connector", lambda _: layouts.connector_layout()),
        "transformer": ("flux", layouts.flux_layout),
        "proxy": ("swinir", layouts.swinir_layout),
        "vae": ("ae", layouts.vae_layout),
    }
    if part not in makers:
        return {}
    name, make = makers[part]
    return {name: (module, make(module))}


def load_published(module: nn.Module, entries: list[Entry], published: Mapping[str, Tensor], name: str) -> None:
    """Puts published tensors into `module`, in the dtype of its parameters; works on a module on the meta device."""
    dtypes = {key: tensor.dtype for key, tensor in module.state_dict().items()}
    state = layouts.from_published(entries, published, module, name)
    module.load_state_dict({key: tensor.to(dtypes[key]) for key, tensor in state.items()}, strict=True, assign=True)


def load_lucidflux(conditioner: Any, connector: Any, path: Path) -> None:
    """Loads lucidflux.pth, or a .safetensors file with its names. InputError for a wrong, partial or foreign file."""
    state = strip_wrappers(read_tensors(path))
    parts = {**layouts_of("conditioner", conditioner), **layouts_of("connector", connector)}
    check_parts(path, state, LUCIDFLUX_PARTS)
    for name, (module, entries) in parts.items():
        load_published(module, entries, strip_wrappers(split_prefix(state, name)), f"{path}: {name}")


def check_parts(path: Path, state: Mapping[str, Tensor], wanted: tuple[str, ...]) -> None:
    """Raises InputError where the top names are not exactly the wanted ones."""
    found = dict.fromkeys(key.split(".", 1)[0] for key in state)
    layouts.check(str(path), dict.fromkeys(found, ()), dict.fromkeys(wanted, ()))


def load_one(part: str, module: Any, path: Path) -> None:
    """Loads the published file of the transformer, the vae or the proxy."""
    ((_, (_, entries)),) = layouts_of(part, module).items()
    state = strip_wrappers(read_tensors(path))
    load_published(module, entries, state, str(path))


def lucidflux_state(conditioner: Any, connector: Any) -> dict[str, dict[str, Tensor]]:
    """The content of a lucidflux.pth."""
    parts = {**layouts_of("conditioner", conditioner), **layouts_of("connector", connector)}
    return {name: layouts.to_published(entries, module.state_dict()) for name, (module, entries) in parts.items()}


def save_lucidflux(conditioner: Any, connector: Any, path: Path, contaminated: Sequence[str] = ()) -> None:
    """Writes the trained parts in the published layout: a torch pickle for .pth, else safetensors with dotted names.

    `contaminated`: suites that they were validated on; in the metadata of safetensors, beside the parts of a pickle,
    where loaders that take part by part do not see it. Raises Interrupted where it cannot be written.
    """
    state = lucidflux_state(conditioner, connector)
    mark = {MARK: ",".join(contaminated)} if contaminated else {}
    flat = {f"{part}.{key}": tensor.contiguous() for part, tensors in state.items() for key, tensor in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside(path) as part:
            if path.suffix.lower() == ".pth":
                torch.save(state | mark, part)
            else:
                write_tensors(flat, part, mark or None)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Interrupted(f"{path} could not be written ({reason}): repeat the command") from None
