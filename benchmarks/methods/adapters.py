"""Adapters: how a published repository is run in an environment of its own, as data files in adapter_files/.

    suite -> inputs/{id}.<ext> -> command of the repository -> files that it wrote -> OUT/<method>/[seed-n/]{id}.<ext>

A command is a template over {python} {inputs} {outputs} {scale} {seed} and the adapter's settings. `collect` is a glob
below {outputs}, `id` a pattern on the name without extension. Bytes are copied as they are.
"""

from __future__ import annotations

import difflib
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lucidflux_data.errors import ConfigError
from lucidflux_data.images import IMAGE_EXTENSIONS

ADAPTER_FILES = Path(__file__).with_name("adapter_files")
GIVEN = ("python", "inputs", "outputs", "scale", "seed")


@dataclass(frozen=True)
class Adapter:
    """`stage`: link the inputs as they are, or write them as `png` where the output's codec follows the input's.
    `output_size` (width, height): what it always writes; None: each input's size times the scale."""

    name: str
    about: str
    repository: str
    commit: str
    licence: str
    environment: tuple[str, ...]
    weights: str
    command: str
    collect: str
    gpus: int = 1
    id: str = "(?P<id>.+)"
    stage: str = "link"
    output_size: tuple[int, int] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    gotchas: tuple[str, ...] = ()

    def argv(self, settings: Mapping[str, str], **given: object) -> list[str]:
        """The command, split as a shell would; values stay whole words."""
        values = {**settings, **{name: str(value) for name, value in given.items()}}
        return [part.format_map(values) for part in shlex.split(self.command)]

    def script(self) -> str | None:
        """The first Python file of the command, below the checkout; None where it is started in another way."""
        return next((part for part in shlex.split(self.command) if part.endswith(".py")), None)

    def found(self, outputs: Path) -> dict[str, Path]:
        """id -> file of everything that was written where `collect` says; the last of two files of one id wins."""
        files = {}
        for path in sorted(outputs.glob(self.collect)):
            match = re.fullmatch(self.id, path.stem)
            if match and path.suffix.lower() in IMAGE_EXTENSIONS:
                files[match["id"]] = path
        return files


def adapter_names() -> list[str]:
    return sorted(path.stem for path in ADAPTER_FILES.glob("*.toml"))


def load_adapter(name: str) -> Adapter:
    """An adapter by name, or by the path of a TOML file of one's own. ConfigError where it is unknown or wrong."""
    file = Path(name) if name.endswith(".toml") else ADAPTER_FILES / f"{name}.toml"
    if not file.is_file():
        near = difflib.get_close_matches(name, adapter_names(), n=3, cutoff=0.5) or adapter_names()
        raise ConfigError(f"there is no method {name!r}: did you mean {', '.join(near)}?")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        for key in ("environment", "gotchas"):
            content[key] = tuple(content.get(key, ()))
        if "output_size" in content:
            content["output_size"] = tuple(content["output_size"])
        adapter = Adapter(name=file.stem, **content)
        adapter.argv(adapter.settings, **dict.fromkeys(GIVEN, "x"))
        assert "id" in re.compile(adapter.id).groupindex, "`id` has no group named id"
    except (tomllib.TOMLDecodeError, TypeError, KeyError, ValueError, re.error, AssertionError) as error:
        raise ConfigError(f"{file} is not an adapter: {error}") from None
    return adapter


def resolve(adapter: Adapter, settings: list[str]) -> tuple[dict[str, str], str]:
    """(all settings, method id); the id carries the settings that differ from the adapter's: `seesr[steps=20]`."""
    values = dict(adapter.settings)
    for item in settings:
        name, equals, value = item.partition("=")
        if not equals or name not in values:
            raise ConfigError(f"--set {item}: {adapter.name} has the settings {', '.join(values) or 'none'}")
        values[name] = value
    changed = [f"{name}={value}" for name, value in values.items() if value != adapter.settings[name]]
    return values, f"{adapter.name}[{','.join(changed)}]".replace("/", "-") if changed else adapter.name
