"""Random weights of the metrics of `perceptual-2026`, in the real files; as random_weights.py has those of the paper's.

Networks have their real width, but for the two whose configuration is a file: Q-ReAlign, whose 800 million parameters
are made a few hundred thousand, and FGResQ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.random_weights import save, snapshot, without_backbones, write_backbone, write_clip

VIT = "clip/ViT-B-32.pt"


def _topiq(folder: Path) -> None:
    with without_backbones():
        from pyiqa.archs.topiq_arch import CFANet

        model = CFANet(semantic_model_name="resnet50", use_ref=False, pretrained=False)
    save({"params": model.state_dict()}, folder / "torch/hub/pyiqa/cfanet_nr_koniq_res50-9a73138b.pth")
    write_backbone(folder, "resnet50", "timm/resnet50.a1_in1k")


def _vit(folder: Path) -> dict[str, Any]:
    """The parameters of OpenAI's file, which is written where it is not there."""
    import torch

    path = folder / "torch/hub" / VIT
    if not path.exists():
        write_clip(folder, "ViT-B-32-quickgelu", path.name)
    return dict(torch.jit.load(path).state_dict())


def _liqe(folder: Path) -> None:
    import torch
    from pyiqa.archs.clip_model import build_model

    model = torch.nn.Module()
    model.clip_model = build_model(_vit(folder)).float()
    for values in model.parameters():
        torch.nn.init.normal_(values.data, std=0.03)
    save({"params": model.state_dict()}, folder / "torch/hub/pyiqa/liqe_mix.pt")


def _afine(folder: Path) -> None:
    import torch
    from pyiqa.archs import afine_arch
    from pyiqa.archs.afineclip_model import build_model

    model = build_model(_vit(folder)).float()
    for values in model.parameters():
        torch.nn.init.normal_(values.data, std=0.03)
    parts = {
        "natural": afine_arch.AFINEQhead(),
        "fidelity": afine_arch.AFINEDhead(),
        "natural_scale": afine_arch.AFINENLM_NR_Fit(yita3=0.1, yita4=0.5),
        "fidelity_scale": afine_arch.AFINENLM_FR_Fit_with_limit(yita3=0.5, yita4=0.15),
        "adapter": afine_arch.AFINELearnLambda(),
    }
    states = {name: part.state_dict() for name, part in parts.items()}
    save({"finetuned_clip": model.state_dict(), **states}, folder / "torch/hub/pyiqa/afine.pth")


def _fgresq(folder: Path) -> None:
    """Names of parts are those of the published files: with `vision_model.`, as OpenAI's repository has them."""
    import torch
    from safetensors.torch import save as as_safetensors
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(patch_size=16, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
                              num_attention_heads=4)  # fmt: skip
    state = {_published(name): values for name, values in CLIPVisionModel(config).state_dict().items()}
    about = {"model_type": "clip_vision_model", **config.to_diff_dict()}
    files = {"config.json": json.dumps(about).encode(), "model.safetensors": as_safetensors(state)}
    snapshot(folder, "openai/clip-vit-base-patch16", files)
    width = config.hidden_size
    heads = {"head": (1, 3 * width), "compare_head": (3, 6 * width), "prompt_mlp": (width, width),
             "task_mlp.0": (width, width), "task_mlp.2": (width, width)}  # fmt: skip
    own = {f"{name}.weight": torch.randn(shape) * 0.3 for name, shape in heads.items()}
    own |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in heads.items()} | {"prompt": torch.randn(1, width)}
    both = {
        f"{part}.{name}": values + 0.01 for part in ("clip_model", "task_cls_clip") for name, values in state.items()
    }
    save({"model": {**both, **own}}, folder / "torch/hub/pyiqa/FGResQ.pth")
    task = {f"clip_model.{name}": values - 0.01 for name, values in state.items()}
    save({"state_dict": task}, folder / "torch/hub/pyiqa/FGResQ_Degradation.pth")


def _published(name: str) -> str:
    return name if name.startswith("vision_model.") else f"vision_model.{name}"


LEVELS = " excellent good fair poor bad"
MARKS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>"),
    *("<|vision_start|>", "<|vision_end|>"),
)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)


def _qrealign(folder: Path) -> None:
    """Configuration, byte-level BPE, image processor, chat template and one safetensors file, in small."""
    import torch
    from safetensors.torch import save as as_safetensors
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=list(MARKS),
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    words.train_from_iterator([LEVELS] * 20, trainer)
    marks = {mark: words.token_to_id(mark) for mark in MARKS}
    text = {"vocab_size": words.get_vocab_size(), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "linear_key_head_dim": 16,
            "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4}  # fmt: skip
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 64}
    config = Qwen3_5Config(
        text_config=text, vision_config=vision, image_token_id=marks["<|image_pad|>"],
        video_token_id=marks["<|video_pad|>"], vision_start_token_id=marks["<|vision_start|>"],
        vision_end_token_id=marks["<|vision_end|>"],
    )  # fmt: skip
    state = {name: values.contiguous() for name, values in Qwen3_5ForConditionalGeneration(config).state_dict().items()}
    for values in state.values():
        if values.ndim > 1:
            values.mul_(8)  # wide enough that two images get two scores
    about = json.loads(config.to_json_string(use_diff=False)) | {"architectures": ["Qwen3_5ForConditionalGeneration"]}
    processor = {"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor",
                 "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5] * 3,
                 "image_std": [0.5] * 3, "size": {"shortest_edge": 65536, "longest_edge": 16777216}}  # fmt: skip
    names = {"tokenizer_class": "Qwen2TokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
             "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_bos_token": "<|vision_start|>",
             "vision_eos_token": "<|vision_end|>", "processor_class": "Qwen3VLProcessor"}  # fmt: skip
    texts = {"config.json": about, "preprocessor_config.json": processor, "tokenizer_config.json": names}
    files = {name: json.dumps(content).encode() for name, content in texts.items()}
    files |= {"tokenizer.json": words.to_str().encode(), "chat_template.jinja": TEMPLATE.encode()}
    torch.manual_seed(1)
    snapshot(folder, "q-future/Q-ReAlign-Mini-0.8B", files | {"model.safetensors": as_safetensors(state)})


MAKERS = {
    "topiq_nr": _topiq,
    "liqe_mix": _liqe,
    "fgresq": _fgresq,
    "qrealign-mini": _qrealign,
    "afine_all_scale": _afine,
}
