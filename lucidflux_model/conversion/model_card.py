"""The card beside exported weights: README.md with the Hub's front matter, from what run and checkpoint recorded.

Nothing is made up: what was not recorded (a licence of the data, a score) is named as such. Sources are not: they are
places of whoever trained.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lucidflux_data.errors import Interrupted
from lucidflux_data.escapes import for_markdown
from lucidflux_data.selection.records import VERSION
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json
from lucidflux_data.storage.run_folder import RUN_FILE
from lucidflux_model.training.checkpoints import PLACE, PROGRESS, latest
from lucidflux_model.training.contamination import read_mark
from lucidflux_model.training.run_file import changes_of
from lucidflux_model.weights.files import WEIGHTS_FILE, file_sha256

CARD = "README.md"
NOT_RECORDED = "which model is not recorded"
BASE = "black-forest-labs/FLUX.1-dev"  # of every model but tiny, whose backbone is random
BASE_LICENCE = "flux-1-dev-non-commercial-license"
BASE_LICENCE_URL = f"https://huggingface.co/{BASE}/blob/main/LICENSE.md"
SEAL = "<!-- Written by `lucidflux weights export`; sha256 of the lines above: {} -->\n"
_SEALED = re.compile(
    rb"(?s)(.*)<!-- Written by `lucidflux weights export`; sha256 of the lines above: ([0-9a-f]{64}) -->\n"
)


def write_model_card(folder: Path, out: Path) -> Path | None:
    """README.md beside the exported file `out`; None where one of somebody else is there, which stays.

    `folder`: the training run, or the folder of converted weights, that `out` was exported from. Interrupted where the
    card cannot be written.
    """
    path = out.with_name(CARD)
    try:
        if path.exists() and not is_untouched(path.read_bytes()):
            return None
        card = make_model_card(folder, out)
    except OSError as error:
        raise Interrupted(f"{path} could not be written ({error.strerror}): repeat the command") from None
    Folder(path.parent).publish(CARD, card)
    return path


def is_untouched(card: bytes) -> bool:
    """Whether a card is as `weights export` wrote it."""
    match = _SEALED.fullmatch(card)
    return match is not None and hashlib.sha256(match[1]).hexdigest() == match[2].decode()


def make_model_card(folder: Path, out: Path) -> bytes:
    """The card as Markdown, the same bytes for the same weights."""
    trained = (folder / PLACE).is_dir()
    about = _read(folder / (RUN_FILE if trained else WEIGHTS_FILE))
    model = about["config"]["model"]["name"] if trained else about.get("model", NOT_RECORDED)
    lines = [
        "# LucidFlux: trained parts",
        "",
        f"`{for_markdown(out.name)}` has the conditioner and the connector of LucidFlux in the published layout. Its "
        f"sha256 is `{file_sha256(out)}`. They run over a frozen backbone, which is not in the file.",
        "",
        *_base(model, about.get("lasting", {}).get("base_sha256")),
        *(_training(folder, about) if trained else ["- How they were trained is not recorded: they were converted."]),
        *_validation(read_mark(folder)),
        "",
        "## Licence",
        "",
        *_licence(model),
        "",
        "## How to use it",
        "",
        "```sh",
        f"lucidflux restore PHOTOS --out restored --weights WEIGHTS --trained {out.name}",
        "```",
        "",
    ]
    front = yaml.safe_dump(_front_matter(model), sort_keys=False, allow_unicode=True)
    data = (f"---\n{front}---\n\n" + "\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
    return data + SEAL.format(hashlib.sha256(data).hexdigest()).encode()


def _read(path: Path) -> dict[str, Any]:
    """JSON of ours; {} where there is none, as in a folder that was converted by hand."""
    return dict(parse_json(path.read_text())) if path.exists() else {}


def _front_matter(model: str) -> dict[str, object]:
    common = {"pipeline_tag": "image-to-image", "tags": ["image-restoration", "lucidflux"]}
    if model == "tiny":
        return {"license": "unknown", **common}
    licence = {"license": "other", "license_name": BASE_LICENCE, "license_link": BASE_LICENCE_URL}
    return {**licence, "base_model": BASE, "base_model_relation": "adapter", **common}


def _base(model: str, sha256: str | None) -> list[str]:
    """What stays frozen below the trained parts. A model that is not recorded counts as one over FLUX.1-dev, as all are
    but tiny."""
    digest = f", digest of the frozen parts `{sha256}`" if sha256 else ""
    if model == "tiny":
        return [f"- Base model: none (`tiny`: a random backbone that checks the plumbing and restores nothing){digest}"]
    return [f"- Base model: [{BASE}](https://huggingface.co/{BASE}) ({for_markdown(model)}){digest}"]


def _training(run: Path, about: Mapping[str, Any]) -> list[str]:
    checkpoint = latest(run)
    assert checkpoint is not None, "it was exported"
    progress, config = parse_json((checkpoint / PROGRESS).read_text()), about["config"]
    averaged = f"moving average of decay {config['ema']:g}" if config["ema"] else "last weights"
    lines = [
        f"- Trained for {progress['step']:,} steps of {config['batch_size']:,} pairs (epoch {progress['epoch']:,}), "
        f"{config['optimizer']}, learning rate {config['learning_rate']:g}, seed {config['seed']}; {averaged}",
    ]
    lines.append("- Begun from weights of an earlier training" if about.get("init") else "- Begun afresh")
    data = about.get("data")
    if data is None:
        lines.append("- The content of the training data was not recorded.")
    else:
        gone = f", {data['forgotten']:,} images forgotten before" if data["forgotten"] else ""
        lines.append(f"- Data: {data['pairs']:,} pairs{gone}, digest `{data['digest']}`")
    changes = changes_of(run)
    lines += [f"- The data changed after step {change['after_step']:,}: this training cannot be repeated exactly"
              for change in changes]  # fmt: skip
    return [*lines, f"- Made by lucidflux {VERSION}"]


def _validation(suites: list[str]) -> list[str]:
    if suites:
        named = ", ".join(map(for_markdown, suites))
        return [f"- **Validated on {named}**: chosen by their images, so no fair entry for them"]
    return [
        "- No validation on a benchmark suite is recorded. Whether the training data show images of one is told by the "
        "card of the data, not here.",
        "- No score of them is recorded here.",
    ]


def _licence(model: str) -> list[str]:
    data = "The licence of the training data is not recorded here: see the card of the data."
    if model == "tiny":
        return ["No base model is in use.", "", data]
    return [
        f"FLUX.1-dev, without which these weights do nothing, is under the [{BASE_LICENCE}]({BASE_LICENCE_URL}): "
        "**non-commercial**. What is derived from it is bound by that licence.",
        "",
        data,
    ]
