"""Random weights in the place of the published ones, in the files and folders where the libraries look for those.

    python tests/support/random_weights.py FOLDER [METRIC...]     writes them
    python tests/support/random_weights.py --run FOLDER bench ...  runs `lucidflux` with them

A check of the plumbing, nothing else: scores of random weights say nothing about an image. Every network has its real
width, but for Q-Align, whose 8 billion parameters are made a few hundred thousand by its config.json. The files are
trusted as a user trusts hers, by a list of their sha256; `--run` takes theirs for the published one in pyiqa's own
check of CLIP, too, and changes nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lucidflux_data.iqa import pins, pyiqa_models

METRICS = ("clipiqa", "clipiqa+", "musiq", "maniqa", "nima", "qalign", "fid")  # niqe is ours, and has no file
OF_2026 = ("topiq_nr", "liqe_mix", "fgresq", "qrealign-mini", "afine_all_scale")


def environment(folder: Path) -> dict[str, str]:
    """The variables that make `folder` the only place where weights are looked for."""
    home = {"TORCH_HOME": folder / "torch", "HF_HUB_CACHE": folder / "hf", "XDG_CACHE_HOME": folder / "cache"}
    own = {"HF_HUB_OFFLINE": "1", "LUCIDFLUX_WEIGHTS": str(folder), pins.TRUSTED: str(folder / "trusted.txt")}
    return {name: str(path) for name, path in home.items()} | own


def trust(folder: Path) -> None:
    """Writes the list of all files that are below the folder now, as `sha256sum` prints them."""
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}" for path in folder.rglob("*") if path.is_file()]
    (folder / "trusted.txt").write_text("\n".join(lines))


def write(folder: Path, metrics: tuple[str, ...] = METRICS) -> None:
    """Writes what each metric loads. In a process of its own: pyiqa reads the environment when it is imported."""
    import torch

    from tests.support import recent_weights as recent

    torch.manual_seed(0)
    torch.set_num_threads(1)
    makers: dict[str, Callable[[Path], None]] = {
        "clipiqa": _clip,
        "clipiqa+": _prompts,
        "musiq": _musiq,
        "maniqa": _maniqa,
        "nima": _nima,
        "qalign": _qalign,
        "fid": _inception,
        **recent.MAKERS,
    }
    for name in metrics:
        makers[name](folder)
    trust(folder)


def save(content: Any, path: Path) -> None:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def snapshot(folder: Path, repository: str, files: dict[str, bytes]) -> Path:
    """Files as the Hugging Face cache keeps them: blobs by content, a snapshot of links, and `main` that names it."""
    place = folder / "hf" / ("models--" + repository.replace("/", "--"))
    revision = pins.REVISIONS.get(f"hf:{repository}", hashlib.sha1(repository.encode()).hexdigest())
    files_of = place / "snapshots" / revision
    for part in (place / "blobs", place / "refs", files_of):
        part.mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(revision)
    for name, content in files.items():
        blob = place / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (files_of / name).symlink_to(Path("..", "..", "blobs", blob.name))
    return files_of


def _clip(folder: Path) -> None:
    write_clip(folder, "RN50-quickgelu", "RN50.pt")


def write_clip(folder: Path, name: str, file: str) -> None:
    """A TorchScript archive of half-precision parameters under OpenAI's names, as its files are."""
    import open_clip
    import torch

    model = open_clip.CLIP(**open_clip.get_model_config(name)).half().eval()
    model.attn_mask = model._buffers.pop("attn_mask")  # no part of OpenAI's file
    inputs = torch.zeros(1, 3, 224, 224, dtype=torch.float16), torch.zeros(1, 77, dtype=torch.int64)
    archive = torch.jit.trace(model, inputs, check_trace=False)
    path = folder / "torch" / "hub" / "clip" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.save(archive, path)


def _prompts(folder: Path) -> None:
    import torch

    _clip(folder) if not (folder / "torch/hub/clip/RN50.pt").exists() else None
    save(torch.randn(2, 16, 512) * 0.02, folder / "torch/hub/pyiqa/CLIP-IQA%2B_learned_prompts-603f3273.pth")


def _musiq(folder: Path) -> None:
    import pyiqa

    model = pyiqa.create_metric("musiq", pretrained=False, device="cpu").net
    save(model.state_dict(), folder / "torch/hub/pyiqa/musiq_koniq_ckpt-e95806b9.pth")


@contextlib.contextmanager
def without_backbones() -> Iterator[None]:
    """timm makes its networks without their files, as they are being written here."""
    import timm

    create = timm.create_model
    timm.create_model = lambda *names, **options: create(*names, **options | {"pretrained": False})
    try:
        yield
    finally:
        timm.create_model = create


def write_backbone(folder: Path, name: str, repository: str) -> None:
    import timm
    from safetensors.torch import save

    model = timm.create_model(name, pretrained=False)
    snapshot(folder, repository, {"model.safetensors": save(model.state_dict())})


def _maniqa(folder: Path) -> None:
    with without_backbones():
        from pyiqa.archs.maniqa_arch import MANIQA

        model = MANIQA(train_dataset="koniq", scale=0.8, pretrained=False)
    save(model.state_dict(), folder / "torch/hub/pyiqa/ckpt_koniq10k.pt")
    write_backbone(folder, "vit_base_patch8_224", "timm/vit_base_patch8_224.augreg2_in21k_ft_in1k")


def _nima(folder: Path) -> None:
    with without_backbones():
        from pyiqa.archs.nima_arch import NIMA

        model = NIMA("inception_resnet_v2", num_classes=10, pretrained=False)
    save({"params": model.state_dict()}, folder / "torch/hub/pyiqa/NIMA_InceptionV2_ava-b0c77c00.pth")
    write_backbone(folder, "inception_resnet_v2", "timm/inception_resnet_v2.tf_in1k")


def _inception(folder: Path) -> None:
    from pyiqa.archs import inception

    load, inception.load_pretrained_network = inception.load_pretrained_network, lambda *_, **__: None
    try:
        model = inception.fid_inception_v3()
    finally:
        inception.load_pretrained_network = load
    import torch

    noise = torch.rand(2, 3, 299, 299) * 2 - 1  # features of a natural size and spread: statistics of some input
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics of this input, not a tenth of them
    with torch.no_grad():
        model.train()(noise)
    save(model.state_dict(), folder / "torch/hub/pyiqa/pt_inception-2015-12-05-6726825d.pth")


VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
LANGUAGE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


def _qalign(folder: Path) -> None:
    """one-align in small: configuration, SentencePiece tokenizer, image processor, two shards and their index."""
    import io

    import torch

    tokenizer = _tokenizer()
    abstractor = {**VISION, "encoder_hidden_size": 64, "num_learnable_queries": 8, "grid_size": 32}
    config = {"model_type": "mplug_owl2", "architectures": ["MPLUGOwl2LlamaForCausalLM"], "vocab_size": 320, **LANGUAGE}
    config["visual_config"] = {"visual_model": VISION | {"image_size": 448}, "visual_abstractor": abstractor}
    processor = {"image_processor_type": "CLIPImageProcessor", "crop_size": 448, "size": 448, "resample": 3,
                 "do_resize": True, "do_center_crop": True, "do_normalize": True,
                 "image_mean": [0.48145466, 0.4578275, 0.40821073],
                 "image_std": [0.26862954, 0.26130258, 0.27577711]}  # fmt: skip
    about = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    texts = {"config.json": config, "preprocessor_config.json": processor, "tokenizer_config.json": about}
    files = {name: json.dumps(content).encode() for name, content in texts.items()} | {"tokenizer.model": tokenizer}
    snapshot(folder, "q-future/one-align", files)
    from pyiqa.archs.q_align.configuration_mplug_owl2 import MPLUGOwl2Config
    from pyiqa.archs.q_align.modeling_mplug_owl2 import MPLUGOwl2LlamaForCausalLM

    state = MPLUGOwl2LlamaForCausalLM(MPLUGOwl2Config.from_pretrained("q-future/one-align")).half().state_dict()
    for name, values in state.items():  # wide enough that two images get two scores
        if values.ndim > 1:
            values.mul_(30 if name == "lm_head.weight" else 8)
    names = list(state)
    parts = {SHARDS[0]: names[: len(names) // 2], SHARDS[1]: names[len(names) // 2 :]}
    files = {}
    for shard, keys in parts.items():
        buffer = io.BytesIO()
        torch.save({key: state[key] for key in keys}, buffer)
        files[shard] = buffer.getvalue()
    index = {"metadata": {"total_size": 0}, "weight_map": {key: shard for shard, keys in parts.items() for key in keys}}
    snapshot(folder, "q-future/one-align", files | {"pytorch_model.bin.index.json": json.dumps(index).encode()})


def _tokenizer() -> bytes:
    """A SentencePiece model of Llama's kind: bytes, three marks, and what a few words give."""
    import io

    import sentencepiece

    words = "How would you rate the quality of this image excellent good fair poor bad ASSISTANT USER is"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([words] * 50), model_writer=model, vocab_size=320, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def take_for_published(folder: Path) -> None:
    """pyiqa compares OpenAI's file with the sha256 in its url: the file in `folder` is taken for that one."""
    load = pyiqa_models.pyiqa_model

    def load_ours(name: str, device: str) -> Any:
        if name in ("clipiqa+", "liqe_mix", "afine_all_scale"):
            name_ours(folder)
        return load(name, device)

    pyiqa_models.pyiqa_model = load_ours


def name_ours(folder: Path) -> None:
    """In pyiqa's urls of OpenAI's files, which hold their sha256, those of the files in `folder`."""
    from pyiqa.archs import afineclip_model, clip_model

    for model, file in (("RN50", "RN50.pt"), ("ViT-B/32", "ViT-B-32.pt")):
        path = folder / "torch/hub/clip" / file
        if path.is_file():
            url = f"https://example.org/{hashlib.sha256(path.read_bytes()).hexdigest()}/{file}"
            clip_model._MODELS[model] = afineclip_model._MODELS[model] = url


if __name__ == "__mp_main__":  # a spawned worker imports this file under that name
    take_for_published(Path(os.environ["LUCIDFLUX_WEIGHTS"]))

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])  # in place of this folder, which a script puts first
    target = Path(sys.argv[2 if sys.argv[1] == "--run" else 1]).absolute()
    os.environ.update(environment(target))
    if sys.argv[1] == "--run":
        take_for_published(target)
        from cli import lucidflux_main

        sys.argv = ["lucidflux", *sys.argv[3:]]
        lucidflux_main()
    else:
        write(target, tuple(sys.argv[2:]) or METRICS)
