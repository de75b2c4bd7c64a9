"""Golden tensors, published sizes, and the conditioner's parts against their formulas written out."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from lucidflux_data.errors import InputError
from lucidflux_model.conversion.parity import TOLERANCE, parity
from lucidflux_model.network.build import MODELS, TRAINED, build, build_random
from lucidflux_model.network.conditioner import Control, LucidFluxConditioner, pack, position_ids, unpack
from lucidflux_model.weights import layouts
from lucidflux_model.weights.published import layouts_of
from tests.support.paths import DATA

GOLDEN = DATA / "lucidflux_reduced"
ERRORS = parity(GOLDEN)


@pytest.mark.parametrize("name", sorted(load_file(GOLDEN / "tensors.safetensors")))
def test_golden_tensor(name: str) -> None:
    if name in ("noise", "guidance", "timestep", "lq_image", "siglip_features", "txt", "vec", "wavelet_content"):
        assert name not in ERRORS, "an input of the golden folder is not a result"
        return
    assert ERRORS[name] <= TOLERANCE


def test_parity_notices_one_wrong_weight(tmp_path: Path) -> None:
    for name in ("config.json", "tensors.safetensors"):
        (tmp_path / name).write_bytes((GOLDEN / name).read_bytes())
    weights = load_file(GOLDEN / "weights.safetensors")
    weights["modulation_lq.linear.bias"][3] += 0.01
    save_file(weights, tmp_path / "weights.safetensors")
    errors = parity(tmp_path)
    assert errors["control_07"] > TOLERANCE
    assert errors["velocity"] > TOLERANCE
    assert errors["velocity_plain"] <= TOLERANCE


@pytest.mark.slow
def test_the_parity_command_exits_with_6(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("lucidflux")), "weights", "parity"]
    for name in ("config.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((GOLDEN / name).read_bytes())
    tensors = load_file(GOLDEN / "tensors.safetensors")
    tensors["control_03"][0, 0, 0] += 1
    save_file(tensors, tmp_path / "tensors.safetensors")
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 6
    assert "1 of 39 tensors differ by more than 0.0001: control_03" in done.stderr
    del tensors["lq_image"]
    save_file(tensors, tmp_path / "tensors.safetensors")
    with pytest.raises(InputError, match="it has no lq_image"):
        parity(tmp_path)
    with pytest.raises(InputError, match="is not there"):
        parity(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def full() -> dict:
    return build(MODELS["flux-dev"])


@pytest.mark.parametrize(
    ("part", "name", "published", "parameters"),
    [
        ("conditioner", "condition_lq", "condition", 743_807_280),
        ("conditioner", "condition_ldr", "condition", 743_807_280),
        ("conditioner", "modulation_lq", "modulation", 39_340_032),
        ("conditioner", "modulation_ldr", "modulation", 39_340_032),
        ("connector", "connector", "connector", 64_503_808),
        ("proxy", "swinir", "swinir", 15_792_587),
        ("transformer", "flux", "flux", 11_901_408_320),
    ],
)
def test_full_size_keys_and_shapes_are_the_published_ones(full, part, name, published, parameters) -> None:
    module, entries = layouts_of(part, full[part])[name]
    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    wanted = json.loads((DATA / "checkpoint_shapes.json").read_text())[published]
    assert layouts.published_shapes(entries, shapes) == {key: tuple(shape) for key, shape in wanted.items()}
    assert sorted(key for entry in entries for key in entry.ours) == sorted(shapes)
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters


def test_full_size_totals(full) -> None:
    def count(part: str) -> int:
        return sum(parameter.numel() for parameter in full[part].parameters())

    assert sum(count(part) for part in TRAINED) == 1_630_798_432
    assert count("vae") == 83_819_683
    assert count("image_encoder") == 428_772_800


@torch.no_grad()
def test_full_size_shapes_at_1024(full) -> None:
    """One step on the meta device: 4096 image tokens, 512 of the prompt, 1536 with SigLIP's for the backbone."""
    with torch.device("meta"):
        pixels, latent = torch.empty(2, 3, 1024, 1024), torch.empty(2, 4096, 64)
        text, pooled, ones = torch.empty(2, 512, 4096), torch.empty(2, 768), torch.ones(2)
        prepared = full["conditioner"].prepare(pixels, pixels, text, pooled, ones)
        control = Control(full["conditioner"](latent, ones, prepared))
        features = full["image_encoder"](pixel_values=torch.empty(2, 3, 512, 512)).last_hidden_state
        semantic = full["connector"](features).image_embeds
        assert full["proxy"](pixels).shape == pixels.shape
        assert full["vae"].decode(torch.empty(1, 16, 128, 128)).sample.shape == (1, 3, 1024, 1024)
        velocity = full["transformer"](
            hidden_states=latent,
            encoder_hidden_states=torch.cat([text, semantic], 1),
            pooled_projections=pooled,
            timestep=ones,
            img_ids=position_ids(64, 64, "meta"),
            txt_ids=torch.empty(1536, 3),
            guidance=ones,
            controlnet_block_samples=control,
        ).sample
    assert prepared.lq.hint.shape == (2, 4096, 3072)
    assert [tensor.shape for tensor in control] == [(2, 4096, 3072)] * 19
    assert semantic.shape == (2, 1024, 4096)
    assert velocity.shape == latent.shape


@pytest.fixture(scope="module")
def tiny() -> dict:
    return build_random("tiny", parts=("transformer", "conditioner"))


def inputs(batch: int = 1, rows: int = 4, columns: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "latent": normal(batch, rows * columns, 64),
        "timestep": torch.linspace(0.9, 0.2, batch),
        "lq": normal(batch, 3, 16 * rows, 16 * columns).clamp(-1, 1),
        "proxy": normal(batch, 3, 16 * rows, 16 * columns).clamp(-1, 1),
        "text": normal(batch, 8, 24),
        "pooled": normal(batch, 16),
        "guidance": torch.full((batch,), 4.0),
    }


def sinusoid(value: float) -> torch.Tensor:
    angles = [value * math.exp(-math.log(10000) * i / 128) for i in range(128)]
    return torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])


@torch.no_grad()
def test_control_is_the_formula_written_out(tiny) -> None:
    """Modulation by hand: LayerNorm, shift first, raw layer number, 1000 t, block l mod 2, the two branches added."""
    conditioner, given = tiny["conditioner"], inputs()
    control = Control(conditioner(**given))
    prepared = conditioner.prepare(**{name: given[name] for name in ("lq", "proxy", "text", "pooled", "guidance")})

    def mlp(embedder: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        hidden = x @ embedder.linear_1.weight.T + embedder.linear_1.bias
        return (hidden * torch.sigmoid(hidden)) @ embedder.linear_2.weight.T + embedder.linear_2.bias

    assert len(control) == 19
    for layer in (0, 1, 2, 7, 18):
        expected = torch.zeros(1, 24, 32)
        for side in ("lq", "proxy"):
            branch = getattr(conditioner, f"branch_{side}")
            modulation = getattr(conditioner, f"modulation_{side}")
            constants = getattr(prepared, side)
            feature = branch(given["latent"], given["timestep"], constants, prepared.rotary)[layer % 2]
            centred = feature - feature.mean(-1, keepdim=True)
            normalised = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)
            e = mlp(modulation.timestep_embedder, sinusoid(1000 * float(given["timestep"])))
            e = e + mlp(modulation.layer_embedder, sinusoid(layer))
            both = (e * torch.sigmoid(e)) @ modulation.linear.weight.T + modulation.linear.bias
            expected += normalised * (1 + both[32:]) + both[:32]
        assert torch.allclose(control[layer], expected, rtol=1e-4, atol=1e-4)  # float32; sums differ by processor


@torch.no_grad()
def test_a_silent_conditioner_is_plain_flux(tiny) -> None:
    given = inputs()
    conditioner = copy.deepcopy(tiny["conditioner"])
    conditioner.silence()
    control = Control(conditioner(**given))
    assert all(bool((tensor == 0).all()) for tensor in control)
    assert torch.equal(velocity(tiny["transformer"], given, control), velocity(tiny["transformer"], given, None))


def velocity(transformer, given: dict, control) -> torch.Tensor:
    return transformer(
        hidden_states=given["latent"],
        encoder_hidden_states=given["text"],
        pooled_projections=given["pooled"],
        timestep=given["timestep"],
        img_ids=position_ids(4, 6),
        txt_ids=torch.zeros(8, 3),
        guidance=given["guidance"],
        controlnet_block_samples=control,
        return_dict=False,
    )[0]


@torch.no_grad()
def test_control_is_added_after_its_double_block_and_nowhere_else(tiny) -> None:
    """The backbone with lazy control equals its blocks run one by one, the image stream raised after double block l."""
    given, transformer = inputs(), tiny["transformer"]
    control = list(Control(tiny["conditioner"](**given)))
    tokens, context = transformer.x_embedder(given["latent"]), transformer.context_embedder(given["text"])
    vector = transformer.time_text_embed(given["timestep"] * 1000, given["guidance"] * 1000, given["pooled"])
    rotary = transformer.pos_embed(torch.cat([torch.zeros(8, 3), position_ids(4, 6)]))
    for block, added in zip(transformer.transformer_blocks, control, strict=True):
        context, tokens = block(tokens, context, vector, rotary)
        tokens = tokens + added
    for block in transformer.single_transformer_blocks:
        context, tokens = block(tokens, context, vector, rotary)
    expected = transformer.proj_out(transformer.norm_out(tokens, vector))
    assert torch.allclose(velocity(transformer, given, Control(tiny["conditioner"](**given))), expected, atol=1e-5)


@torch.no_grad()
def test_a_batch_is_its_single_images(tiny) -> None:
    given = inputs(batch=3)
    together = Control(tiny["conditioner"](**given))
    for index in range(3):
        alone = Control(tiny["conditioner"](**{name: tensor[index : index + 1] for name, tensor in given.items()}))
        for layer in (0, 5):
            assert torch.allclose(together[layer][index], alone[layer][0], atol=1e-5)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        conditioner = build_random("tiny", parts=("conditioner",))["conditioner"].train()
        if checkpointing:
            conditioner.enable_gradient_checkpointing()
        sum(tensor.square().mean() for tensor in Control(conditioner(**inputs()))).backward()
        gradients.append({name: parameter.grad for name, parameter in conditioner.named_parameters()})
    for name, gradient in gradients[0].items():
        if gradient is None:  # where the last block's text stream leads, nothing of the result comes from
            assert "transformer_blocks.1" in name
            assert "ff_context" in name or "to_add_out" in name
            assert gradients[1][name] is None
        else:
            assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name


def test_branches_start_from_the_backbone(tiny) -> None:
    conditioner = LucidFluxConditioner(**MODELS["tiny"].conditioner)
    conditioner.copy_backbone(tiny["transformer"])
    ours = conditioner.branch_proxy.transformer_blocks[1].attn.to_q.weight
    assert torch.equal(ours, tiny["transformer"].transformer_blocks[1].attn.to_q.weight)


def test_pack_is_row_by_row_and_channel_major() -> None:
    latent = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)
    tokens = pack(latent)
    for row, column, channel, down, right in ((0, 0, 0, 0, 0), (1, 2, 2, 1, 0), (0, 1, 1, 0, 1)):
        expected = latent[:, channel, 2 * row + down, 2 * column + right]
        assert torch.equal(tokens[:, row * 3 + column, channel * 4 + down * 2 + right], expected)
    assert torch.equal(unpack(tokens, 2, 3), latent)


def test_stock_backbone_takes_the_control_as_it_is() -> None:
    """No subclass of ours stands between diffusers' class and its users' quantised or compiled copies."""
    assert build(MODELS["tiny"], parts=("transformer",))["transformer"].__class__ is FluxTransformer2DModel
