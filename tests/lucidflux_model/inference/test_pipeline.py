"""The pipeline end to end with `tiny`: real photos, sizes, batches, tiles, numerics, save and load."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lucidflux_data.errors import ConfigError
from lucidflux_model.inference.config import ModelConfig
from lucidflux_model.inference.loading import ACTIVATIONS, choose_offload, load_pipeline, module_bytes, part_bytes
from lucidflux_model.inference.pipeline import LucidFluxPipeline
from lucidflux_model.network.build import sizes_of
from lucidflux_model.network.conditioner import Control, pack, position_ids, unpack
from lucidflux_model.network.schedule import schedule_length


@pytest.fixture(scope="module")
def pipeline() -> LucidFluxPipeline:
    return load_pipeline(ModelConfig(name="tiny"), "fast")


@pytest.fixture(scope="module")
def photo(photo_paths) -> np.ndarray:
    path = next(path for path in photo_paths if path.stem == "chelsea")
    return np.asarray(Image.open(path).convert("RGB"))[40:168, 100:292]  # 128 x 192


def run(pipeline: LucidFluxPipeline, image, steps: int = 2, seed: int = 5, **options) -> torch.Tensor:
    count = len(image) if isinstance(image, list) else 1
    generators = [torch.Generator().manual_seed(seed + index) for index in range(count)]
    options = {"upscale": 1, "output_type": "pt", **options}
    return pipeline(image, steps, generator=generators, **options).images


@torch.no_grad()
def test_the_loop_written_out(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    """Everything recomputed at each step, as the published script does, gives the same image."""
    image = photo[:64, :96]
    result = run(pipeline, image, 3)
    lq = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    proxy = pipeline.proxy(torch.nn.functional.pad((lq + 1) / 2, (0, 32, 0, 0), mode="reflect"))[..., :96].clamp(0, 1)
    small = torch.nn.functional.interpolate(proxy, (64, 64), mode="bilinear", antialias=True).clamp(0, 1)
    features = pipeline.image_encoder(pixel_values=small * 2 - 1).last_hidden_state
    text = pipeline.prompt.text
    context = torch.cat([text, pipeline.connector(features).image_embeds], 1)
    latents = pack(torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(5)))
    mu = 0.5 + (8 * 12 // 256 - 256) * 0.65 / 3840
    sigmas = [np.exp(mu) / (np.exp(mu) + 1 / t - 1) for t in (1, 2 / 3, 1 / 3)] + [0]
    guidance = torch.tensor([4.0])
    for now, after in itertools.pairwise(sigmas):
        time = torch.tensor([now], dtype=torch.float32)
        inputs = {"lq": lq, "proxy": 2 * proxy - 1, "text": text, "pooled": pipeline.prompt.pooled}
        control = list(Control(pipeline.conditioner(latents, time, **inputs, guidance=guidance)))
        velocity = pipeline.transformer(
            hidden_states=latents,
            encoder_hidden_states=context,
            pooled_projections=pipeline.prompt.pooled,
            timestep=time,
            img_ids=position_ids(4, 6),
            txt_ids=torch.zeros(context.shape[1], 3),
            guidance=guidance,
            controlnet_block_samples=control,
        ).sample
        latents = latents + float(after - now) * velocity
    decoded = pipeline.vae.decode(unpack(latents, 4, 6) / 0.3611 + 0.1159).sample
    unit = (decoded.clamp(-1, 1) + 1) / 2
    expected = run_align(unit, proxy)
    assert (result - expected).abs().max() < 1e-4


def run_align(image: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Colours by repeated blurring, written with another convolution call."""

    def low(x: torch.Tensor) -> torch.Tensor:
        kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
        for radius in (1, 2, 4, 8, 16):
            padded = torch.nn.functional.pad(x, (radius,) * 4, mode="replicate")
            planes = [torch.conv2d(padded[:, c : c + 1], kernel[None, None], dilation=radius) for c in range(3)]
            x = torch.cat(planes, 1)
        return x

    return (image - low(image) + low(source)).clamp(0, 1)


@pytest.mark.parametrize(("height", "width", "upscale"), [(16, 16, 4), (33, 47, 2), (1, 70, 1), (50, 20, 1.5)])
def test_any_size_and_aspect(pipeline: LucidFluxPipeline, photo: np.ndarray, height, width, upscale) -> None:
    result = run(pipeline, photo[:height, :width], 1, upscale=upscale)
    assert result.shape == (1, 3, round(height * upscale), round(width * upscale))
    assert bool(torch.isfinite(result).all())
    assert 0 <= float(result.min()) <= float(result.max()) <= 1


def test_height_and_width_override_upscale(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    assert run(pipeline, photo, 1, height=48, width=80).shape == (1, 3, 48, 80)


def test_inputs_and_outputs_of_every_kind(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    image = photo[:32, :48]
    array = run(pipeline, image)
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    assert torch.equal(run(pipeline, Image.fromarray(image)), array)
    assert torch.equal(run(pipeline, tensor), array)
    pil = run(pipeline, image, output_type="pil")[0]
    expected = (array[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert np.array_equal(np.asarray(pil), expected)
    assert np.array_equal(run(pipeline, image, output_type="np")[0], array[0].permute(1, 2, 0).numpy())
    assert run(pipeline, image, output_type="latent").shape == (1, 6, 64)
    (result,) = pipeline(image, 1, upscale=1, output_type="pt", return_dict=False)
    assert result.shape == (1, 3, 32, 48)


def test_a_batch_is_its_single_images(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    images = [photo[:48, :64], photo[48:96, 64:128], photo[40:88, 20:84]]
    together = run(pipeline, images)
    for index, image in enumerate(images):
        assert (together[index] - run(pipeline, image, seed=5 + index)[0]).abs().max() < 1e-4


def test_the_same_call_gives_the_same_bits(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    assert torch.equal(run(pipeline, photo[:48]), run(pipeline, photo[:48]))
    assert not torch.equal(run(pipeline, photo[:48]), run(pipeline, photo[:48], seed=6))


def test_tiles_have_no_seam(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    """Tiled minus untiled: under 0.02 on average, and at no row or column a jump over 4 times the median one."""
    tiled, whole = run(pipeline, photo, tile=128, overlap=64), run(pipeline, photo, tile=0)
    difference = (tiled - whole)[0].mean(0)
    assert difference.abs().mean() < 0.02
    for side in (difference, difference.T):
        jumps = (side[:, 1:] - side[:, :-1]).abs().mean(0)
        assert jumps.max() < 4 * jumps.median()
    assert torch.equal(run(pipeline, photo, tile=192), whole)


@torch.no_grad()
def test_a_constant_velocity_is_the_same_in_tiles(photo: np.ndarray) -> None:
    """With a backbone that says the same everywhere, tiles change nothing: their blending adds up to one."""
    pipeline = load_pipeline(ModelConfig(name="tiny"), "fast")
    pipeline.transformer.proj_out.weight.zero_()
    pipeline.transformer.proj_out.bias.copy_(torch.linspace(-1, 1, 64))
    latents = [run(pipeline, photo, tile=tile, overlap=64, output_type="latent") for tile in (0, 128)]
    assert (latents[0] - latents[1]).abs().max() < 1e-6
    assert latents[0].abs().max() > 1


def test_what_the_network_is_told_of_the_time(photo: np.ndarray) -> None:
    """bfloat16: parity rounds t and then 1000 t, as the published code does; fast keeps both exact."""
    pipeline = load_pipeline(ModelConfig(name="tiny"), "fast")
    for name in ("transformer", "conditioner", "connector", "image_encoder", "prompt"):
        getattr(pipeline, name).to(torch.bfloat16)
    seen: dict[str, list[float]] = {"backbone": [], "modulation": []}
    for name, module in (
        ("backbone", pipeline.transformer.time_text_embed.timestep_embedder),
        ("modulation", pipeline.conditioner.modulation_lq.timestep_embedder),
    ):
        module.register_forward_pre_hook(lambda _, given, name=name: seen[name].append(given[0][0].clone()))
    steps = 5
    sigmas = {}
    for numerics in ("parity", "fast"):
        run(pipeline, photo[:32, :48], steps, numerics=numerics)
        sigmas[numerics] = pipeline.scheduler.sigmas[:-1].clone()
    for name, sinusoids in seen.items():
        rounded = (sigmas["parity"].bfloat16() * 1000).float()
        exact = sigmas["fast"] * 1000
        assert not torch.equal(rounded, exact)
        for index, value in enumerate([*rounded, *exact]):
            frequencies = torch.exp(-np.log(10000) * torch.arange(128) / 128)
            expected = torch.cat([torch.cos(value * frequencies), torch.sin(value * frequencies)]).bfloat16()
            assert torch.allclose(sinusoids[index].float(), expected.float(), atol=0.02), (name, index)
    assert float(torch.tensor(0.90044).bfloat16() * 1000) == 904


def test_parity_wants_its_float32_parts(photo: np.ndarray) -> None:
    pipeline = load_pipeline(ModelConfig(name="tiny"), "fast")
    pipeline.vae.to(torch.bfloat16)
    with pytest.raises(ValueError, match="vae in float32"):
        run(pipeline, photo[:16, :16], 1, numerics="parity")


def test_schedules_and_knobs_change_what_they_say(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    image = photo[:48, :64]
    base = run(pipeline, image)
    assert not torch.equal(base, run(pipeline, image, schedule="flux"))
    assert schedule_length("flux", 48, 64) == 12
    assert not torch.equal(base, run(pipeline, image, proxy_strength=0.5))
    assert not torch.equal(base, run(pipeline, image, guidance_scale=1.0))
    plain = run(pipeline, image, color_fix="none")
    assert torch.allclose(run_align(plain, torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255.0),
                          run(pipeline, image, color_fix="lq"), atol=1e-5)  # fmt: skip


def test_a_callback_sees_and_changes_the_latents(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    sigmas = []

    def zero_at_the_end(pipe, index: int, sigma: torch.Tensor, given: dict) -> dict:
        assert pipe is pipeline
        sigmas.append(float(sigma))
        return {"latents": torch.zeros_like(given["latents"])} if index == 2 else {}

    latents = run(pipeline, photo[:32, :32], 3, output_type="latent", callback_on_step_end=zero_at_the_end)
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[0] == 1
    assert bool((latents == 0).all())


def test_wrong_arguments_are_sentences(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    for options, message in (
        ({"schedule": "karras"}, "published, flux"),
        ({"numerics": "fp8"}, "fast, parity"),
        ({"color_fix": "hq"}, "proxy, lq, none"),
        ({"output_type": "jpg"}, "pil, np, pt, latent"),
        ({"tile": 100}, "multiples of 64"),
    ):
        with pytest.raises(ValueError, match=message):
            run(pipeline, photo[:16, :16], 1, **options)
    with pytest.raises(ValueError, match="one size"):
        run(pipeline, [photo[:16, :16], photo[:16, :32]], 1)
    with pytest.raises(ValueError, match="uint8"):
        run(pipeline, photo[:16, :16].astype(np.float32), 1)


def test_saved_and_loaded_is_the_same(pipeline: LucidFluxPipeline, photo: np.ndarray, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "saved")
    loaded = LucidFluxPipeline.from_pretrained(tmp_path / "saved")
    loaded.set_progress_bar_config(disable=True)
    for name, component in pipeline.components.items():
        if hasattr(component, "state_dict"):
            state = loaded.components[name].state_dict()
            assert all(torch.equal(state[key], tensor) for key, tensor in component.state_dict().items()), name
    assert (run(loaded, photo[:32, :48]) - run(pipeline, photo[:32, :48])).abs().max() < 1e-4
    half = LucidFluxPipeline.from_pretrained(
        tmp_path / "saved", dtype={"default": torch.bfloat16, "proxy": torch.float32, "vae": torch.float32}
    )
    assert half.transformer.dtype == half.conditioner.dtype == torch.bfloat16
    assert half.proxy.dtype == half.vae.dtype == torch.float32
    half.set_progress_bar_config(disable=True)
    for numerics in ("fast", "parity"):
        difference = (run(half, photo[:32, :48], numerics=numerics) - run(pipeline, photo[:32, :48])).abs()
        assert 0 < difference.mean() < (0.01 if numerics == "fast" else 0.5)  # parity's noise is another one


def test_fp8_holds_the_backbone_in_a_byte_a_weight(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    quantised = load_pipeline(ModelConfig(name="tiny", quantize="fp8"), "fast")
    weight = quantised.transformer.transformer_blocks[0].ff.net[2].weight
    assert weight.dtype == torch.float8_e4m3fn
    # diffusers leaves norms, and the modulations inside them, as they are: 28% of FLUX.1-dev's weights
    assert module_bytes(quantised.transformer) < 0.5 * module_bytes(pipeline.transformer)
    difference = (run(quantised, photo[:32, :48]) - run(pipeline, photo[:32, :48])).abs()
    assert 0 < difference.mean() < 0.05


def test_nf4_goes_through_diffusers(pipeline: LucidFluxPipeline, photo: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    pipeline.save_pretrained(tmp_path / "saved")
    config = ModelConfig(name="tiny", weights=str(tmp_path / "saved"), quantize="nf4")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="needs a GPU"):
            load_pipeline(config, "fast")
        return
    quantised = load_pipeline(config, "fast")
    assert type(quantised.transformer.transformer_blocks[0].attn.to_q).__name__ == "Linear4bit"
    difference = (run(quantised, photo[:32, :48]) - run(pipeline, photo[:32, :48])).abs()
    assert 0 < difference.mean() < 0.1


def test_nf4_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="while loading"):
        load_pipeline(ModelConfig(name="tiny", quantize="nf4"), "fast")


@pytest.mark.parametrize("kind", ["group", "model"])
def test_offload_gives_the_same_image(pipeline: LucidFluxPipeline, photo: np.ndarray, kind: str) -> None:
    """With a CPU as the device to come to: the hooks and their order, not the saving."""
    offloaded = load_pipeline(ModelConfig(name="tiny", offload="group" if kind == "group" else "none"), "fast")
    if kind == "model":
        offloaded.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert (run(offloaded, photo[:32, :48]) - run(pipeline, photo[:32, :48])).abs().max() < 1e-5


def test_offload_by_free_memory(pipeline: LucidFluxPipeline) -> None:
    sizes = part_bytes(pipeline)
    assert sizes["transformer"] == 4 * sum(parameter.numel() for parameter in pipeline.transformer.parameters())
    assert choose_offload(sizes, sum(sizes.values()) + ACTIVATIONS) == "none"
    assert choose_offload(sizes, sum(sizes.values()) + ACTIVATIONS - 1) == "model"
    one = max(sizes.values()) + sizes["conditioner"] + sizes["prompt"] + ACTIVATIONS
    assert choose_offload(sizes, one) == "model"
    assert choose_offload(sizes, one - 1) == "group"


def test_a_model_that_cannot_be_had() -> None:
    with pytest.raises(ConfigError, match="needs --weights"):
        load_pipeline(ModelConfig(name="flux-dev"), "fast")
    with pytest.raises(ConfigError, match="tiny or flux-dev"):
        sizes_of("sdxl")
    with pytest.raises(ConfigError, match="cannot be used"):
        load_pipeline(ModelConfig(name="tiny", device="cuda:7"), "fast")
