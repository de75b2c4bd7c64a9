"""The card of a set: README.md with what the Hub's webdataset loader goes by, and what was looked into.

The last line of the file has the sha256 of all above it. So a card that someone edited is known, and not written over
without being asked.
"""

from __future__ import annotations

import hashlib
import re

import yaml

from lucidflux_data.errors import ConfigError
from lucidflux_data.escapes import for_markdown, for_markdown_code, show
from lucidflux_data.publish.croissant import CROISSANT, MAIN, About, make_croissant, resolve_url
from lucidflux_data.publish.facts import SetFacts, gather_facts
from lucidflux_data.publish.licences import hub_ids
from lucidflux_data.selection.records import VERSION
from lucidflux_data.shards.shard import MANIFEST
from lucidflux_data.storage.folder import Folder

CARD = "README.md"
UNNAMED = "OWNER/NAME"  # in the snippets, before the set has a repository
# Upper ends of the Hub's size categories, in samples.
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
         (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip
# Extensions whose pictures Pillow decodes by itself; of others `datasets` gives the bytes.
DECODED = frozenset({"avif", "bmp", "gif", "jp2", "jpg", "mpo", "png", "tif", "webp"})
SEAL = "<!-- Written by `lucidflux-data card`; sha256 of the lines above: {} -->\n"
_SEALED = re.compile(rb"(?s)(.*)<!-- Written by `lucidflux-data card`; sha256 of the lines above: ([0-9a-f]{64}) -->\n")
_FRONT = re.compile(rb"(?s)---\n(.*?)\n---\n")


def write_card(
    folder: Folder, name: str, creator: str | None, repository: str | None, overwrite: bool, revision: str = MAIN
) -> SetFacts:
    """Writes README.md and croissant.json; gives what they tell. `repository`: OWNER/NAME on the Hub, where it has one,
    and `revision`: the branch there.

    ConfigError where README.md is not as `card` wrote it, unless `overwrite`; errors of `gather_facts`.
    """
    if not overwrite and folder.exists(CARD) and not is_untouched(folder.read(CARD)):
        raise ConfigError(f"{folder.path(CARD)} was written or edited by hand: --overwrite replaces it")
    facts, name = gather_facts(folder), show(name)  # one line: another could end the front matter
    url = page_of(repository) if repository else None
    about: About = {"name": name, "description": describe(facts), "creator": creator, "url": url, "revision": revision}
    folder.publish(CROISSANT, make_croissant(facts, about))
    folder.publish(CARD, make_readme(facts, name, repository, revision))
    return facts


def page_of(repository: str) -> str:
    """The address of a dataset on the Hub."""
    return f"https://huggingface.co/datasets/{repository}"


def is_untouched(card: bytes) -> bool:
    """Whether a card is as it was written."""
    match = _SEALED.fullmatch(card)
    return match is not None and hashlib.sha256(match[1]).hexdigest() == match[2].decode()


def describe(facts: SetFacts) -> str:
    """A sentence: what is in the set."""
    if facts.kind == "pairs":
        samples = facts.manifest["samples"]
        return f"{samples:,} pairs of a clean and a degraded image (HQ and LQ), made of {facts.images:,} clean images."
    return f"{facts.images:,} images kept of {facts.candidates:,} candidates, as their original bytes."


def make_readme(facts: SetFacts, name: str, repository: str | None, revision: str = MAIN) -> bytes:
    """The card as Markdown, the same bytes for the same facts."""
    front = yaml.safe_dump(front_matter(facts, name), sort_keys=False, allow_unicode=True, width=10_000)
    lines = [
        f"# {for_markdown(name)}",
        "",
        describe(facts),
        "",
        *_inside(facts),
        *_reading(facts, repository or UNNAMED, revision),
        *_choice(facts),
        *_licences(facts),
        *_looked_into(facts),
        "",
    ]
    text = f"---\n{front}---\n\n" + "\n".join(lines) + "\n"
    data = text.encode("utf-8", "backslashreplace")
    return data + SEAL.format(hashlib.sha256(data).hexdigest()).encode()


def size_category(samples: int) -> str:
    """The Hub's category of so many samples."""
    return next((name for end, name in SIZES if samples < end), "n>1T" if samples >= 10**12 else "1B<n<10B")


def front_matter(facts: SetFacts, name: str) -> dict[str, object]:
    """What the Hub and `datasets` read. The features are given, since `datasets` takes them from the first five samples
    otherwise, and refuses shards whose samples are of several formats."""
    ids = hub_ids(facts.licences)
    tags = ["webdataset", "image-restoration", *(["super-resolution"] if facts.kind == "pairs" else []), "lucidflux"]
    features = [{"name": each, "dtype": _dtype(each)} for each in facts.members]
    features += [{"name": each, "dtype": "string"} for each in ("__key__", "__url__")]
    pattern = f"shards/{facts.prefix}-*.tar"
    return {
        "pretty_name": name,
        "license": ids[0] if len(ids) == 1 else ids,
        "task_categories": ["image-to-image"],
        "tags": tags,
        "size_categories": [size_category(facts.manifest["samples"])],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": pattern}]}],
        "dataset_info": {"config_name": "default", "features": features},
    }


def _dtype(extension: str) -> str:
    last = extension.rpartition(".")[2]
    return "json" if last == "json" else "image" if last in DECODED else "binary"


def _inside(facts: SetFacts) -> list[str]:
    manifest = facts.manifest
    members = ", ".join(f"{count:,} {for_markdown_code(f'.{name}')}" for name, count in facts.members.items())
    many = f"{len(manifest['shards']):,} tars below `shards/`, {manifest['bytes'] / 1e6:,.1f} MB"
    return [
        "## What is inside",
        "",
        f"- {manifest['samples']:,} samples in {many}: {members}",
        "- the `json` of a sample has what is known of it, the name of its image in the source among it",
        f"- `{MANIFEST}` has the sha256 of every shard; the set as a whole is `{manifest['content_sha256']}`",
        f"- made by lucidflux {VERSION}",
        "",
    ]


def _reading(facts: SetFacts, repository: str, revision: str) -> list[str]:
    urls = facts.manifest["urls"]
    place = f"{resolve_url(page_of(repository), revision)}shards/{urls}"
    branch = f', revision="{revision}"' if revision != MAIN else ""
    return [
        "## How to read it",
        "",
        "```python",
        "import datasets, webdataset",
        "",
        f'samples = datasets.load_dataset("{repository}"{branch}, split="train", streaming=True)',
        f'samples = webdataset.WebDataset("{place}", shardshuffle=False)',
        f'samples = webdataset.WebDataset("shards/{urls}", shardshuffle=False)  # files of this folder',
        "```",
        "",
    ]


def _choice(facts: SetFacts) -> list[str]:
    title = "## How the pairs were made" if facts.kind == "pairs" else "## How the images were chosen"
    lines = [title, "", "| setting | value |", "|---|---|"]
    lines += [f"| {for_markdown(each)} | {for_markdown(value)} |" for each, value in facts.settings.items()]
    gone = [f"| {each.count:,} | {for_markdown(f'{each.name}: {each.meaning}')} |" for each in facts.reasons]
    if gone:
        lines += ["", "| candidates left out | why |", "|---|---|", *gone]
    return [*lines, ""]


def _licences(facts: SetFacts) -> list[str]:
    rows = [f"| {for_markdown(licence)} | {count:,} |" for licence, count in facts.licences.items()]
    sentence = "As the sources state them, for each image; a licence of the collection as a whole is not recorded."
    return ["## Licences", "", sentence, "", "| licence | images |", "|---|---|", *rows, ""]


def _looked_into(facts: SetFacts) -> list[str]:
    looked = [f"- {for_markdown(sentence)}" for sentence in facts.looked_into] or ["- Nothing."]
    not_looked = [f"- {for_markdown(sentence)}" for sentence in facts.not_looked_into]
    return ["## What was looked into", "", *looked, "", "## What was not looked into", "", *not_looked]


def names_content(card: bytes, content_sha256: str) -> bool:
    """Whether a card speaks of the set with this content."""
    return for_markdown_code(content_sha256).encode() in card


def has_front_matter(card: bytes) -> bool:
    """Whether a card begins with YAML that names data files, as the Hub's loader needs it."""
    match = _FRONT.match(card)
    try:
        content = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return False
    return isinstance(content, dict) and "configs" in content
