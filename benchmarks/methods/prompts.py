"""The prompt that a method is given for each image: nothing, one text for all, or the suite's own texts.

none | fixed:TEXT | file  ->  WORK/prompts/{id}.txt of exactly the ids that run
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.suites.prompts import SuitePrompts
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.storage.folder import Folder


@dataclass(frozen=True)
class Prompts:
    """`text`: of every image, where `mode` is fixed; `texts`: of each, where it is file. `settings`: what method.json
    says of them, so that outputs of other prompts are never mixed with these."""

    mode: Literal["none", "fixed", "file"]
    text: bytes = b""
    texts: Mapping[str, bytes] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    def text_of(self, id_: str) -> bytes:
        return self.texts[id_] if self.mode == "file" else self.text


def plain_prompts(asked: str) -> Prompts | None:
    """The prompts of `none` and of `fixed:TEXT`; None for what stands in files. ConfigError for an empty text."""
    if asked == "none":
        return Prompts("none", settings={"prompts": "none"})
    word, colon, text = asked.partition(":")
    if word != "fixed" or not colon:
        return None
    if not text.strip():
        raise ConfigError("--prompts fixed: has no text after the colon: `none` is for no prompts")
    return Prompts("fixed", text.encode(), settings={"prompts": "fixed", "prompt": text})


def prompts_of_files(found: SuitePrompts) -> Prompts:
    record = found.record
    origin = {"captioner": record.captioner, "captioner_revision": record.revision, "prompts_sha256": record.sha256}
    return Prompts("file", texts=found.texts, settings={"prompts": "file", **origin})


def stage_prompts(prompts: Prompts, ids: Iterable[str], target: Path) -> None:
    """Writes {id}.txt of `ids` into an empty folder."""
    target.mkdir(parents=True)
    for id_ in ids:
        Folder(target).publish(f"{id_}.txt", prompts.text_of(id_))
    Folder(target).sweep()


def check_order(inputs: Path, prompts: Path) -> None:
    """InputError where the sorted names of both folders do not name the same ids at each place: a repository that pairs
    by position would give an image the prompt of another."""
    images, texts = ([path.stem for path in sorted(folder.iterdir())] for folder in (inputs, prompts))
    for image, text in zip(images, texts, strict=True):
        if image != text:
            raise InputError(f"{image} would be given the prompt of {text}: their names sort in two ways")
