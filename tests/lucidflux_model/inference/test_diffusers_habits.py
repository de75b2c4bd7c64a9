"""What users of diffusers take for granted: the checks that its own pipelines pass, as far as they apply."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import PipelineCallback
from PIL import Image

from lucidflux_data.in_memory import pixels_of
from lucidflux_model.inference.config import ModelConfig
from lucidflux_model.inference.loading import load_pipeline
from lucidflux_model.inference.pipeline import LucidFluxPipeline
from lucidflux_model.inference.request import output_size
from tests.support.paths import DATA

needs_accelerator = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
CASES = [path for path in sorted((DATA / "cases" / "images").iterdir()) if path.suffix != ".tif"]


@pytest.fixture(scope="module")
def pipeline() -> LucidFluxPipeline:
    return load_pipeline(ModelConfig(name="tiny"), "fast")


@pytest.fixture(scope="module")
def saved(pipeline: LucidFluxPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photo(photo_paths: list[Path]) -> np.ndarray:
    path = next(path for path in photo_paths if path.stem == "chelsea")
    return np.asarray(Image.open(path).convert("RGB"))[40:168, 100:292]  # 128 x 192


def inputs(photo: np.ndarray, **options) -> dict:
    given = {"image": photo[:32, :48], "num_inference_steps": 2, "upscale": 1, "output_type": "np"}
    return {**given, "generator": torch.Generator().manual_seed(0), **options}


def call(pipeline: LucidFluxPipeline, photo: np.ndarray, **options):
    return pipeline(**inputs(photo, **options)).images


def test_the_signature_has_what_generic_code_passes() -> None:
    names = set(inspect.signature(LucidFluxPipeline.__call__).parameters)
    always = {"num_inference_steps", "num_images_per_prompt", "generator", "latents", "output_type", "return_dict"}
    assert names >= always | {"image", "height", "width", "guidance_scale"}
    assert names >= {"callback_on_step_end", "callback_on_step_end_tensor_inputs"}


def test_saved_and_loaded_without_a_change(pipeline: LucidFluxPipeline, saved: Path, photo: np.ndarray) -> None:
    loaded = LucidFluxPipeline.from_pretrained(saved)
    loaded.set_progress_bar_config(disable=True)
    assert np.abs(call(loaded, photo) - call(pipeline, photo)).max() < 1e-4
    assert loaded.components.keys() == pipeline.components.keys()
    with pytest.raises((OSError, ValueError), match="variant"):
        LucidFluxPipeline.from_pretrained(saved, variant="fp16")


def test_the_class_finds_what_the_generic_one_does_not(saved: Path, photo: np.ndarray) -> None:
    """docs/model.md: DiffusionPipeline knows classes of diffusers alone; the line that loads is the class's own."""
    with pytest.raises((AttributeError, ValueError, ImportError)):
        DiffusionPipeline.from_pretrained(saved)
    assert isinstance(LucidFluxPipeline.from_pretrained(saved), DiffusionPipeline)


def test_a_component_given_takes_the_place_of_the_saved_one(pipeline: LucidFluxPipeline, saved: Path) -> None:
    loaded = LucidFluxPipeline.from_pretrained(saved, vae=pipeline.vae)
    assert loaded.vae is pipeline.vae
    assert loaded.transformer is not pipeline.transformer


def test_components_make_another_pipeline(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    assert set(pipeline.components) == set(inspect.signature(LucidFluxPipeline.__init__).parameters) - {"self"}
    other = LucidFluxPipeline(**pipeline.components)
    other.set_progress_bar_config(disable=True)
    assert np.array_equal(call(other, photo), call(pipeline, photo))


def test_a_batch_of_any_size_is_its_single_images(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    alone = call(pipeline, photo)
    for count in (1, 2, 3):
        generators = [torch.Generator().manual_seed(0) for _ in range(count)]
        together = call(pipeline, photo, image=[photo[:32, :48]] * count, generator=generators)
        assert together.shape == (count, 32, 48, 3)
        assert np.abs(together - alone).max() < 1e-4


def test_dict_and_tuple_are_the_same(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    as_dict = pipeline(**inputs(photo))
    as_tuple = pipeline(**inputs(photo), return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert np.array_equal(as_dict.images, as_tuple[0])
    assert np.array_equal(as_dict[0], as_dict["images"])


def test_dtype_and_device_move_every_part(saved: Path, photo: np.ndarray) -> None:
    loaded = LucidFluxPipeline.from_pretrained(saved)
    assert loaded.dtype == torch.float32
    assert loaded.device.type == "cpu"
    modules = [part for part in loaded.components.values() if isinstance(part, torch.nn.Module)]
    loaded.to(torch.bfloat16)
    assert {part.dtype for part in modules} == {torch.bfloat16}
    loaded.set_progress_bar_config(disable=True)
    exact = call(LucidFluxPipeline.from_pretrained(saved), photo)
    assert 0 < np.abs(call(loaded, photo) - exact).mean() < 0.05
    loaded.to("cpu", torch.float32)
    assert {part.dtype for part in modules} == {torch.float32}


def test_sixteen_bits_on_disk_are_sixteen_bits_in_memory(saved: Path, photo: np.ndarray, tmp_path: Path) -> None:
    half = LucidFluxPipeline.from_pretrained(saved, torch_dtype=torch.bfloat16)
    half.save_pretrained(tmp_path)
    again = LucidFluxPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    for one in (half, again):
        one.set_progress_bar_config(disable=True)
        assert {part.dtype for part in one.components.values() if isinstance(part, torch.nn.Module)} == {torch.bfloat16}
    assert np.abs(call(half, photo) - call(again, photo)).max() < 1e-2


def test_a_callback_is_given_the_tensors_that_it_names(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    seen: list[tuple[int, set[str]]] = []

    def look(pipe, index: int, sigma: torch.Tensor, given: dict) -> dict:
        assert set(given) <= set(pipe._callback_tensor_inputs)
        assert (pipe.num_timesteps, pipe.guidance_scale, pipe.interrupt) == (2, 3.5, False)
        seen.append((index, set(given)))
        return given

    plain = call(pipeline, photo, guidance_scale=3.5)
    for names in (pipeline._callback_tensor_inputs, []):
        seen.clear()
        options = {"callback_on_step_end": look, "callback_on_step_end_tensor_inputs": names}
        assert np.array_equal(call(pipeline, photo, guidance_scale=3.5, **options), plain)
        assert seen == [(0, set(names)), (1, set(names))]
    with pytest.raises(ValueError, match="out of latents, not prompt_embeds"):
        call(pipeline, photo, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def test_diffusers_own_callbacks_say_what_they_take(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    class Halve(PipelineCallback):
        tensor_inputs = ["latents"]  # noqa: RUF012 - diffusers' own attribute

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            return {"latents": callback_kwargs["latents"] / 2}

    options = {"output_type": "latent", "num_inference_steps": 1}
    halved = call(pipeline, photo, callback_on_step_end=Halve(cutoff_step_ratio=None, cutoff_step_index=0), **options)
    assert torch.allclose(2 * halved, call(pipeline, photo, **options))


def test_a_callback_ends_the_steps(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    states = []

    def stop(pipe, index: int, sigma: torch.Tensor, given: dict) -> dict:
        states.append(given["latents"].clone())
        pipe._interrupt = index == 1
        return given

    left = call(pipeline, photo, num_inference_steps=5, output_type="latent", callback_on_step_end=stop)
    assert len(states) == 2
    assert torch.equal(left, states[-1])
    assert pipeline.interrupt
    assert pipeline.num_timesteps == 5
    states.clear()
    call(pipeline, photo, num_inference_steps=2)
    assert not pipeline.interrupt


def test_latents_take_the_place_of_noise(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    from lucidflux_model.network.conditioner import pack

    noise = pack(torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(0)))
    assert np.array_equal(call(pipeline, photo, latents=noise, generator=None), call(pipeline, photo))
    with pytest.raises(ValueError, match="latents are 1x6x64 for this output, not 1x16x4x6"):
        call(pipeline, photo, latents=torch.zeros(1, 16, 4, 6))


def test_what_cannot_be_met_is_refused_by_name(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    two = [photo[:16, :16]] * 2
    for options, told in (
        ({"image": two, "generator": [torch.Generator()]}, "1 generators for 2 images"),
        ({"image": two, "generator": [torch.Generator()] * 3}, "3 generators for 2 images"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 images"),
        ({"generator": 3}, "generator is a torch.Generator, or a list with one for each image, not 3"),
        ({"generator": [None]}, "generator is a torch.Generator"),
        ({"upscale": "2"}, "upscale is a number, not '2'"),
        ({"callback_on_step_end_tensor_inputs": "latents"}, "is a list of names, not 'latents'"),
        ({"num_images_per_prompt": 2}, "num_images_per_prompt is 1, not 2"),
        ({"num_inference_steps": 0}, "num_inference_steps is at least 1, not 0"),
        ({"height": 0}, "at least 1 pixel"),
        ({"upscale": 0}, "upscale is over 0"),
        ({"upscale": float("nan")}, "upscale is over 0"),
        ({"tile": 128, "overlap": 128}, "overlap is the smaller"),
        ({"image": []}, "no image"),
    ):
        with pytest.raises(ValueError, match=told):
            call(pipeline, photo, **options)
    assert call(pipeline, photo, num_images_per_prompt=None).shape == (1, 32, 48, 3)


def test_one_side_alone_keeps_the_aspect_ratio(pipeline: LucidFluxPipeline, photo: np.ndarray) -> None:
    assert call(pipeline, photo, height=64).shape == (1, 64, 96, 3)
    assert call(pipeline, photo, width=24).shape == (1, 16, 24, 3)
    assert call(pipeline, photo, height=16, width=16).shape == (1, 16, 16, 3)
    assert output_size((100, 150), None, None, 1.5) == (150, 225)
    assert output_size((1000, 3), 10) == (10, 1)
    assert output_size((250, 400), None, 1600) == (1000, 1600)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_the_pipeline_sees_what_the_command_sees(pipeline: LucidFluxPipeline, path: Path, monkeypatch) -> None:
    """The LQ that goes into the networks is made of the pixels that `decode` gives, of every format and mode."""
    from lucidflux_data.images import ImageError, decode

    try:
        expected = decode(path.read_bytes())
        with Image.open(path) as image:
            seen = lq_of(pipeline, image, monkeypatch)
    except (ImageError, Image.UnidentifiedImageError):
        return  # tests/lucidflux_data/test_in_memory.py names them
    assert torch.equal(seen, lq_of(pipeline, expected, monkeypatch))
    height, width = expected.shape[:2]
    levels = ((seen[0, :, :height, :width] + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.array_equal(levels, expected)


def lq_of(pipeline: LucidFluxPipeline, image, monkeypatch) -> torch.Tensor:
    """What the networks are given, 1 x 3 x H x W in [-1, 1]."""
    seen: list[torch.Tensor] = []

    class Seen(Exception):
        pass

    def stop(lq: torch.Tensor, *_: object) -> torch.Tensor:
        seen.append(lq)
        raise Seen

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_proxy", stop)
        with pytest.raises(Seen):
            pipeline(image, 1, upscale=1)
    return seen[0]


def test_tensors_and_arrays_are_no_white_pictures(pipeline: LucidFluxPipeline, photo: np.ndarray, monkeypatch) -> None:
    expected = lq_of(pipeline, photo, monkeypatch)
    assert expected.std() > 0.1
    first = torch.from_numpy(photo.copy()).permute(2, 0, 1)
    deep = Image.fromarray(photo[..., 0].astype(np.uint16) * 257)
    for same in (first, first[None], first / 255, photo, photo / 255, photo.astype(np.uint16) * 257, first.numpy()):
        assert torch.equal(lq_of(pipeline, same, monkeypatch), expected)
    grey = lq_of(pipeline, np.repeat(photo[..., :1], 3, 2), monkeypatch)
    for same in (deep, photo[..., 0], photo[..., :1], first[:1]):
        assert torch.equal(lq_of(pipeline, same, monkeypatch), grey)
    assert np.array_equal(pixels_of(first)[0], photo)


@pytest.mark.parametrize(("tile", "overlap"), [(128, 64), (64, 0), (0, 0), (1024, 128)])
def test_the_autoencoder_decodes_in_the_tiles_that_were_asked_for(
    pipeline: LucidFluxPipeline, photo: np.ndarray, tile: int, overlap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    decode = pipeline.vae.decode

    def watched(latents: torch.Tensor, **options):
        shapes.append(tuple(latents.shape[-2:]))
        return decode(latents, **options)

    monkeypatch.setattr(pipeline.vae, "decode", watched)
    result = call(pipeline, photo, image=photo, num_inference_steps=1, tile=tile, overlap=overlap)
    assert result.shape == (1, 128, 192, 3)
    side = tile // 8
    assert max(max(shape) for shape in shapes) == (side if 0 < tile < 192 else 24)
    assert len(shapes) == {128: 2, 64: 6, 0: 1, 1024: 1}[tile]
    assert not pipeline.vae.use_tiling


@needs_accelerator
@pytest.mark.parametrize("kind", ["model", "group", "sequential"])
def test_offload_leaves_nothing_on_the_accelerator(saved: Path, photo: np.ndarray, kind: str) -> None:
    """With a CPU to come to, group and model are in test_pipeline.py; accelerate's sequential one wants a device."""
    expected = call(LucidFluxPipeline.from_pretrained(saved).to("cuda"), photo)
    if kind == "sequential":
        offloaded = LucidFluxPipeline.from_pretrained(saved)
        offloaded.enable_sequential_cpu_offload()
    else:
        offloaded = load_pipeline(ModelConfig(name="tiny", weights=str(saved), offload=kind), "fast")
    for _ in range(2):
        assert np.abs(call(offloaded, photo) - expected).max() < 1e-3
        assert {parameter.device.type for parameter in offloaded.transformer.parameters()} <= {"cpu", "meta"}


@needs_accelerator
def test_float16_is_close_to_float32(saved: Path, photo: np.ndarray) -> None:
    exact = LucidFluxPipeline.from_pretrained(saved).to("cuda")
    half = LucidFluxPipeline.from_pretrained(saved, torch_dtype=torch.float16).to("cuda")
    assert np.abs(call(half, photo) - call(exact, photo)).mean() < 0.05
