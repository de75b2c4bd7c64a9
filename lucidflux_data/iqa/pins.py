"""Which weight files may be opened: those whose whole sha256 is written here, and those that the user trusts.

pyiqa unpickles its files, and OpenAI's is TorchScript: either may run code of whoever made it. So a file is compared
before a library sees it. What is not written here the user may pin: $LUCIDFLUX_TRUSTED_WEIGHTS names a file of lines as
`sha256sum` prints them.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from pathlib import Path

from lucidflux_data.errors import ConfigError, VerificationError
from lucidflux_data.iqa.weight_files import WEIGHTS, location, missing_files, read_files, snapshot

TRUSTED = "LUCIDFLUX_TRUSTED_WEIGHTS"
DATA = (".json", ".model")  # configuration and tokenizer: text and tables, which nothing executes

CLIP_RN50 = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"  # part of the url at OpenAI
CLIP_VIT_B_32 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"  # likewise
# chaofengc/IQA-PyTorch-Weights: the pages of the files at huggingface.co, each of which names its sha256. Where a name
# ends in eight digits, they are the first ones.
SHA256: dict[str, frozenset[str]] = {
    weight: frozenset(digests)
    for weight, digests in {
        "own:RN50.pt": [CLIP_RN50],
        "clip/RN50.pt": [CLIP_RN50],
        "clip/ViT-B-32.pt": [CLIP_VIT_B_32],
        "pyiqa/CLIP-IQA%2B_learned_prompts-603f3273.pth": [
            "603f3273b6e8a75b309297c85781170c067c6b474f66818c2f253a46a6534447"
        ],
        "pyiqa/musiq_koniq_ckpt-e95806b9.pth": ["e95806b9eae5f3814c410f574ba8e552362bd5bc63d758ed5b97860f5d6185aa"],
        # of the authors' release (github.com/IIGROUP/MANIQA, Koniq10k), as three users of it wrote it down
        "pyiqa/ckpt_koniq10k.pt": ["a207f8ab57322e6be38ff5c8d019301dc032b454bef21c3c9f9dbf7974eebff6"],
        "pyiqa/MANIQA_PIPAL-ae6d356b.pth": ["ae6d356bcd583ae3c1ca81d84817cf96d662073896c7e40fceddb305ddc2f155"],
        "pyiqa/NIMA_InceptionV2_ava-b0c77c00.pth": ["b0c77c00c789565be8e6af96c1641bbad716c1592bff1cdc749c6006b95bd34e"],
        "pyiqa/cfanet_nr_koniq_res50-9a73138b.pth": [
            "9a73138beb3748dd6a83365610ac88fa1cd53225342c77fc9ed44a3be461354c"
        ],
        "pyiqa/brisque_svm_weights.pth": ["e5b048ef5325bae6c57965cf077fadfa5834fcefb02e13611b4ea2d36cf3c52c"],
        # the same bytes are in the package lpips 0.1.4, and DISTS's in dists-pytorch 0.1
        "pyiqa/LPIPS_v0.1_alex-df73285e.pth": ["df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"],
        "pyiqa/DISTS_weights-f5e65c96.pth": ["f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218"],
        # huggingface.co/RaphaelLiu/EvalCrafter-Models has a copy and names it
        "pyiqa/pt_inception-2015-12-05-6726825d.pth": [
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
        ],
        # of torchvision, as those who fetched them wrote them down
        "checkpoints/alexnet-owt-7be5be79.pth": ["7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"],
        "checkpoints/vgg16-397923af.pth": ["397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"],
        # the pages of model.safetensors and pytorch_model.bin at huggingface.co
        "hf:timm/inception_resnet_v2.tf_in1k": [
            "dbea26b13a5fc8351919fed6a94222c0577ce324b2765fd081a798f837ca9d72",
            "d47b5edf9f355ef395162258bd2eb0edb2710bf3711774de54d5f4a1d1fcfbdf",
        ],
        # model.safetensors, as those who fetched it wrote it down
        "hf:timm/resnet50.a1_in1k": ["773525d5821de224f8f30c33377b7a795d7863e08522698200d3217d3f2a41bb"],
        "hf:timm/vit_base_patch8_224.augreg2_in21k_ft_in1k": [],  # was not to be had: the user has to pin it
        # none of these was to be had: the user has to pin them
        "pyiqa/liqe_mix.pt": [],
        "pyiqa/FGResQ_Degradation.pth": [],
        "pyiqa/FGResQ.pth": [],
        "pyiqa/afine.pth": [],
        "hf:openai/clip-vit-base-patch16": [],
        "hf:q-future/Q-ReAlign-Mini-0.8B": [],
        # the two shards, from their pages at huggingface.co
        "hf:q-future/one-align": [
            "ca4cdc96237832a9eb3486274de0b10fa7235d5007ee6cff49320c7250970fe3",
            "d445a50608f025a39ac75c6da13cb9d12a4cc923f6e1b9abc4b767408eac0729",
        ],
    }.items()
}
# Repositories with code in them, of which one revision is taken. None of that code is run, see `pyiqa_models`.
REVISIONS = {"hf:q-future/one-align": "dcc603b95aa0ebd82afa696d4a1e20d11fc80ddb"}


def check_files(metric: str) -> list[Path]:
    """The weight files of a metric, all of them compared. ConfigError where one is missing; VerificationError, which
    says what to do, where one is neither pinned nor trusted."""
    weights = WEIGHTS.get(metric, ())
    for weight in weights:
        for path in missing_files(weight):
            raise ConfigError(
                f"the weights of {metric} are not here: {path.name} in {path.parent} (`lucidflux weights download "
                f"{metric}` fetches them); --iqa niqe and --iqa none need nothing"
            )
    wrong = [problem for weight in weights for problem in unpinned(weight)]
    if wrong:
        raise VerificationError(f"{metric} was not loaded: {wrong[0]}")
    return [path for weight in weights for path in read_files(weight)]


def unpinned(weight: str) -> list[str]:
    """Why files of an entry of WEIGHTS may not be opened, a sentence each; [] where all may be, or are missing."""
    problems = []
    revision = REVISIONS.get(weight)
    found = snapshot(location(weight)) if revision else None
    if found is not None and found.name not in {revision, *trusted_digests()}:
        problems.append(
            f"{weight[3:]} is at revision {found.name}, not at the one that is pinned, {revision}: fetch that one "
            f"(`lucidflux bench doctor` prints how); or, if you trust yours, add the line {found.name} to a file and "
            f"set {TRUSTED} to that file's path (docs/security.md)"
        )
    for path in read_files(weight):
        if path.suffix not in DATA and path.is_file():
            problems += filter(None, [why_not_opened(path, SHA256.get(weight, frozenset()))])
    return problems


def why_not_opened(path: Path, pinned: frozenset[str]) -> str | None:
    """A sentence where the sha256 of a file is neither of `pinned` nor one that the user trusts."""
    digest = file_sha256(path)
    if digest in pinned or digest in trusted_digests():
        return None
    known = "it does not have the sha256 that is pinned for it" if pinned else "no sha256 is pinned for it"
    return (
        f"{path} is not opened, since {known}, and it could hold code: fetch it again; or, if you trust it, add the "
        f"line {digest} to a file and set {TRUSTED} to that file's path (docs/security.md)"
    )


def trusted_digests() -> frozenset[str]:
    """Hex digits from the file that $LUCIDFLUX_TRUSTED_WEIGHTS names: of files (64) and of revisions (40)."""
    name = os.environ.get(TRUSTED)
    if not name:
        return frozenset()
    try:
        lines = Path(name).read_text().splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{TRUSTED} names {name}, which cannot be read ({type(error).__name__})") from None
    words = [line.split()[0].removeprefix("\\") for line in lines if line.strip() and not line.startswith("#")]
    for word in words:
        if not re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", word):
            raise ConfigError(f"{TRUSTED} names {name}, in which {word!r} is no sha256 and no revision")
    return frozenset(words)


def file_sha256(path: Path) -> str:
    """Of a file; computed again where its size, a time or its inode has changed: the time of change follows every
    write, whatever is done to the other."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, *_state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
