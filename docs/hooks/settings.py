"""The page of every setting, made from the pydantic models: name, default, what it takes, unit, meaning, source.

A setting is documented by the string below it in its model:

    timeout_s: float = Field(60.0, gt=0)
    \"""Time without a byte, after which a request has failed. Unit: seconds. Source: RFC 0000.\"""

`Source:` in the docstring of a section is that of its settings; a value without one is a choice of ours.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from benchmarks.methods.adapters import adapter_names, load_adapter
from lucidflux_data.config import dotted
from lucidflux_data.degradation.config import PRESETS as PAIRS_PRESETS
from lucidflux_data.pairs.config import PairsConfig, make_pairs_config
from lucidflux_data.selection.config import PRESETS, FilterConfig, make_config
from lucidflux_model.training.config import TrainConfig, make_train_config
from pipelines.restoration.config import NetworkConfig, NetworkModel, RestoreConfig

OURS = "ours"
NO_UNIT = "-"
ABOUT = re.compile(r"(?P<meaning>.*?)(?: ?Unit: (?P<unit>.*?)\.)?(?: ?Source: (?P<source>.*?)\.?)?")


@dataclass(frozen=True)
class Setting:
    """One key of `--set`, with texts for the page."""

    name: str
    default: str
    takes: str
    unit: str
    meaning: str
    source: str
    numeric: bool


@dataclass(frozen=True)
class Part:
    """A section of a config: the settings that stand directly in it."""

    name: str
    about: str
    settings: list[Setting]


def describe_settings() -> str:
    """The page, in Markdown."""
    trained = sorted(
        file.name.removesuffix(".toml") for file in _train_configs().iterdir() if file.name != "__init__.py"
    )
    chapters: list[tuple[str, str, BaseModel, str, dict[str, Any]]] = [
        ("filter", "filter, score, select, pack, plan, what-if", FilterConfig(), "--preset",
         {name: make_config(name) for name in PRESETS}),
        ("synthesize", "synthesize", PairsConfig(), "--preset",
         {name: make_pairs_config(name) for name in PAIRS_PRESETS}),
        ("train", "train, cache", TrainConfig(), "--config",
         {name: make_train_config(name, []) for name in trained}),
        ("restore", "restore with LucidFlux", RestoreConfig(), "", {}),
        ("restore-network", "restore --model FILE", NetworkConfig(model=NetworkModel(file="FILE")), "", {}),
    ]  # fmt: skip
    lines = [INTRODUCTION]
    for anchor, commands, config, option, presets in chapters:
        lines.append(f"## {commands} {{#{anchor}}}\n")
        for part in read_parts(config):
            title = f"`{part.name}`" if part.name else "At the top"
            lines += [f"### {title} {{#{anchor}-{part.name.replace('.', '-') or 'top'}}}\n", part.about, ""]
            lines += ["| setting | meaning | default | takes | unit | source |", "|---|---|---|---|---|---|"]
            lines += [_row(setting) for setting in part.settings] + [""]
        if presets:
            lines += _preset_table(anchor, option, config, presets)
    return "\n".join([*lines, *_describe_methods()])


INTRODUCTION = """# Settings

Every key of `--set KEY=VALUE`, and of a file given with `--config` (TOML, a table for each section), with its default.
Made from the models that check them: a key that is not here is an error. Later ones win: defaults, preset, file,
`--set`. `none` takes a value back, a list stands by commas, `a.b.c=v` is one entry of a table. The source says where a
default comes from; *ours* is a choice that nothing published makes for us. A dash stands for no unit.
"""


def read_parts(config: BaseModel, prefix: str = "") -> Iterator[Part]:
    """The sections of a config with their settings: its own first, then those of each section below."""
    own, below = [], []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            below.append((f"{prefix}{name}", value))
        else:
            own.append(_describe(type(config), name, field, value, prefix))
    about = _split(textwrap.dedent(type(config).__doc__ or ""))["meaning"]
    if own:
        yield Part(prefix.removesuffix("."), about, own)
    for name, value in below:
        yield from read_parts(value, f"{name}.")


def _describe(kind: type[BaseModel], name: str, field: FieldInfo, value: object, prefix: str) -> Setting:
    told = next((docs[name] for base in kind.__mro__ if name in (docs := attribute_docs(base))), "")
    about = _split(told)
    source = about["source"] or _split(kind.__doc__ or "")["source"] or OURS
    default = "" if field.is_required() else f"`{_shown(value)}`" if _shown(value) else "(empty)"
    return Setting(
        prefix + name,
        default or "required",
        _takes(field),
        about["unit"],
        about["meaning"],
        source,
        any(part in (int, float) for part in _leaves(field.annotation)),
    )


def _split(text: str) -> dict[str, str]:
    """Meaning, unit and source of a docstring, each on one line."""
    match = ABOUT.fullmatch(" ".join(text.split()))
    assert match is not None, "each part may be empty"
    return match.groupdict(default="")


@cache
def attribute_docs(kind: type) -> dict[str, str]:
    """The strings below the attributes of a class, by name; of classes of ours."""
    if not issubclass(kind, BaseModel) or kind.__module__.split(".")[0] == "pydantic":
        return {}
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for node, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[ast.unparse(node.target)] = str(after.value.value)
    return found


def _leaves(kind: object) -> Iterator[object]:
    """What an annotation is made of: Annotated, optional and compound ones unfolded."""
    if get_origin(kind) is Annotated:
        yield from _leaves(get_args(kind)[0])
    elif get_origin(kind) in (Union, types.UnionType, tuple, dict):
        for part in get_args(kind):
            yield from _leaves(part)
    else:
        yield kind


def _takes(field: FieldInfo) -> str:
    """`number from 0 to 1, or none`."""
    kinds = list(get_args(field.annotation)) if _is_union(field.annotation) else [field.annotation]
    some = [kind for kind in kinds if kind is not type(None)]
    text = ", or ".join(_kind(kind) for kind in some)
    signs = {Ge: ("from", "ge"), Gt: ("over", "gt"), Le: ("to", "le"), Lt: ("under", "lt")}
    for bound in field.metadata:
        if type(bound) in signs:
            word, name = signs[type(bound)]
            text += f" {word} {getattr(bound, name):.10g}"
    return text + (", or none" if len(some) < len(kinds) else "")


def _is_union(kind: object) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _kind(kind: object) -> str:
    words = {int: "integer", float: "number", str: "text", bool: "true, false"}
    if kind in words:
        return words[kind]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return f"list of {_kind(inner[0])}"
    if origin is tuple:
        return f"{len(inner)} of {_kind(inner[0])}, by a comma"
    assert origin is dict, f"no words for {kind}"
    return f"table of {_kind(inner[1])}"


def _shown(value: object) -> str:
    """A value as `--set` takes it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return " ".join(f"{name}={_shown(inner)}" for name, inner in value.items())
    if isinstance(value, tuple | list):
        return ",".join(map(_shown, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _row(setting: Setting) -> str:
    name = setting.name.rpartition(".")[2]
    source = re.sub(r"docs/([\w-]+)\.md", r"[\1](../\1.md)", setting.source)
    cells = [f"`{name}`", setting.meaning, setting.default, setting.takes, setting.unit or NO_UNIT, source]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _preset_table(anchor: str, option: str, plain: BaseModel, presets: dict[str, Any]) -> list[str]:
    """What each preset says otherwise, a row for each setting that one of them changes."""
    before = dotted(plain.model_dump())
    values = {name: dotted(config.model_dump()) for name, config in presets.items()}
    changed = dict.fromkeys(key for each in values.values() for key, value in each.items() if before.get(key) != value)
    gone = [key for key in changed if any(key.startswith(f"{other}.") for other in changed)]
    lines = [f"### What `{option}` changes {{#{anchor}-presets}}\n", f"| setting | {' | '.join(values)} |"]
    lines.append("|---" * (len(values) + 1) + "|")
    for key in changed:
        if key not in gone:
            cells = [
                f"`{_shown(each[key])}`" if key in each and each[key] != before.get(key) else ""
                for each in values.values()
            ]
            lines.append(f"| `{key}` | {' | '.join(cells)} |")
    return [*lines, ""]


def _describe_methods() -> list[str]:
    """Of `bench infer`: what the adapters say, which hand it to programs of others as it is."""
    lines = [
        "## bench infer METHOD {#infer}\n",
        "Of a method in a checkout of its own, handed to its program as it is: `bench infer METHOD --dry-run` has the",
        "command. Of a network in a file: `tile` and `overlap`, as of [restore](#restore-network-top).\n",
        "| method | setting=default | source |",
        "|---|---|---|",
    ]
    for name in adapter_names():
        adapter = load_adapter(name)
        values = " ".join(f"`{key}={value}`" for key, value in adapter.settings.items()) or "none"
        lines.append(f"| {name} | {values} | {adapter.repository} at {adapter.commit} |")
    return [*lines, ""]


def _train_configs() -> Any:
    return resources.files("lucidflux_model") / "configs"
