"""Draws and loss against formulas written out, the table of sigma distributions, and plain Flux."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from lucidflux_model.network.build import TRAINED
from lucidflux_model.network.conditioner import pack, position_ids
from lucidflux_model.training.distributed import Runtime
from lucidflux_model.training.model import UNREACHED, initialise, useful_flops
from lucidflux_model.training.objective import Draws, draw, model_time, sigma_bins, sigmas, velocity_losses
from lucidflux_model.training.optimizer import MovingAverage, learning_rate
from lucidflux_model.training.setup import prepare_model
from tests.support import training

CPU = Runtime(0, 1, torch.device("cpu"))
# lucidflux: offset in the logit -> mean, 5/25/50/75/95 %, P(s < .5), computed by others from 10^7 draws
TABLE = {
    "logit-normal": (0.500, (0.162, 0.337, 0.500, 0.662, 0.838), 0.500),
    "flux-shift": (0.723, (0.379, 0.616, 0.760, 0.861, 0.942), 0.125),
    "published-script": (0.940, (0.820, 0.923, 0.959, 0.979, 0.992), 0.0008),
}


@pytest.mark.parametrize("name", TABLE)
def test_sigma_distributions_at_4096_tokens(name: str) -> None:
    normals = np.random.default_rng(0).standard_normal(400_000)
    found = sigmas(training.config_of(f"timestep_sampling={name}"), normals, 4096)
    mean, percentiles, under_half = TABLE[name]
    assert found.mean() == pytest.approx(mean, abs=2e-3)
    assert np.percentile(found, (5, 25, 50, 75, 95)) == pytest.approx(percentiles, abs=2.5e-3)
    assert (found < 0.5).mean() == pytest.approx(under_half, abs=3e-3 if under_half > 0.01 else 3e-4)


def test_flow_shift_multiplies_the_odds() -> None:
    plain = sigmas(training.config_of("timestep_sampling=logit-normal"), np.array([-1.0, 0.3]), 100)
    shifted = sigmas(training.config_of("flow_shift=3"), np.array([-1.0, 0.3]), 100)
    assert shifted / (1 - shifted) == pytest.approx(3 * plain / (1 - plain))
    default = sigmas(training.config_of(), np.array([0.0]), 4096)[0]
    assert default / (1 - default) == pytest.approx(math.exp(1.15))


def test_the_published_script_tells_the_model_a_rounded_time() -> None:
    config = training.config_of("timestep_sampling=published-script")
    time = model_time(config, np.array([0.9619, 0.99951, 0.5]))
    assert time.tolist() == [0.9609375, 1.0, 0.5]  # 0.961 and 0.999 in bfloat16, steps of 1/256 there
    assert model_time(training.config_of(), np.array([0.9619]))[0] == 0.9619


def test_draws_follow_from_the_position_alone() -> None:
    config = training.config_of("guidance=1,4", "drop_branch=0.5", "drop_semantic=0.3")
    together = draw(config, list(range(400)), (16, 4, 4))
    alone = draw(config, [123], (16, 4, 4))
    for name in Draws.__annotations__:
        assert torch.equal(getattr(together, name)[123:124], getattr(alone, name))
    assert together.noise.std() == pytest.approx(1, abs=0.02)
    assert 1 <= together.guidance.min() < 1.1
    assert 3.9 < together.guidance.max() <= 4
    assert together.keep_semantic.mean() == pytest.approx(0.7, abs=0.07)
    assert together.keep_lq.mean() == pytest.approx(0.75, abs=0.07)
    assert ((together.keep_lq + together.keep_proxy) >= 1).all(), "never both branches"
    assert not torch.equal(draw(training.config_of("seed=1"), [5], (16, 4, 4)).noise, together.noise[5:6])


def test_loss_of_a_constructed_batch() -> None:
    clean, noise = torch.full((2, 3, 4), 0.5), torch.tensor([1.0, -1.0]).view(2, 1, 1).expand(2, 3, 4)
    prediction = torch.full((2, 3, 4), 0.25)
    # (0.25 - (1 - 0.5))^2 and (0.25 - (-1 - 0.5))^2
    assert velocity_losses(prediction, clean, noise).tolist() == [0.0625, 3.0625]
    assert velocity_losses(prediction.bfloat16(), clean, noise).dtype == torch.float32
    assert sigma_bins(torch.tensor([0.0, 0.19, 0.2, 0.999, 1.0])).tolist() == [0, 0, 1, 4, 4]


@pytest.fixture(scope="module")
def model():
    return prepare_model(training.config_of(), CPU, None)


def batch(count: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (2, count, 3, 64, 64), generator=generator, dtype=torch.uint8)
    return {"hq": images[0], "lq": images[1]}


def plain_velocity(model, noisy: torch.Tensor, features: torch.Tensor, draws: Draws) -> torch.Tensor:
    """The backbone alone, called as diffusers documents it."""
    text, pooled = model.prompt(len(noisy))
    context = torch.cat([text, model.connector(features).image_embeds], 1)
    return model.transformer(
        hidden_states=pack(noisy),
        encoder_hidden_states=context,
        pooled_projections=pooled,
        timestep=draws.time,
        img_ids=position_ids(noisy.shape[2] // 2, noisy.shape[3] // 2),
        txt_ids=torch.zeros(context.shape[1], 3),
        guidance=draws.guidance,
        return_dict=False,
    )[0]


@torch.no_grad()
def test_step_0_with_safe_initialisation_is_plain_flux(model) -> None:
    inputs = model.encode(batch())
    clean = inputs.pop("latent")
    draws = draw(training.config_of(), [0, 1], clean.shape[1:])
    assert torch.equal(
        model(draws.noise, **inputs, draws=draws), plain_velocity(model, draws.noise, inputs["features"], draws)
    )
    published = copy.deepcopy(model)
    torch.manual_seed(0)
    initialise(published, "published")
    assert not torch.allclose(
        published(draws.noise, **inputs, draws=draws), plain_velocity(model, draws.noise, inputs["features"], draws)
    )


def test_branches_begin_as_the_first_blocks_of_the_backbone(model) -> None:
    for branch in (model.conditioner.branch_lq, model.conditioner.branch_proxy):
        for ours, theirs in zip(branch.transformer_blocks, model.transformer.transformer_blocks, strict=False):
            assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@torch.no_grad()
def test_latents_are_the_means_that_diffusers_gives(model) -> None:
    found = model.encode(batch())
    pixels = batch()["hq"].float() / 127.5 - 1
    mean = model.vae.encode(pixels).latent_dist.mean
    assert torch.allclose(found["latent"], (mean - 0.1159) * 0.3611, atol=1e-6)
    assert found["proxy"].shape == found["lq"].shape == (2, 3, 64, 64)
    assert torch.allclose(found["lq"], batch()["lq"] / 127.5 - 1, atol=1e-6)
    cached = model.encode({"latent": torch.zeros(1, 16, 8, 8), "lq": batch(1)["lq"]})
    assert not cached["latent"].any()


@torch.no_grad()
def test_a_dropped_branch_is_silent_for_its_sample_alone(model) -> None:
    loud = copy.deepcopy(model)
    for modulation in (loud.conditioner.modulation_lq, loud.conditioner.modulation_proxy):
        torch.nn.init.normal_(modulation.linear.weight, 0, 0.1, generator=torch.Generator().manual_seed(1))
    inputs = loud.encode(batch())
    inputs.pop("latent")
    draws = draw(training.config_of(), [0, 1], (16, 8, 8))
    both = loud(draws.noise, **inputs, draws=draws)
    ones, half = torch.ones(2), torch.tensor([1.0, 0.0])
    draws.keep_semantic, draws.keep_lq, draws.keep_proxy = ones, half, half
    silent = loud(draws.noise, **inputs, draws=draws)
    assert torch.allclose(silent[0], both[0], atol=1e-6)
    plain = plain_velocity(loud, draws.noise, inputs["features"], draws)
    assert torch.allclose(silent[1], plain[1], atol=1e-6)
    assert not torch.allclose(both[1], plain[1], atol=1e-2)


def test_what_is_trained(model) -> None:
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {
        name
        for name, _ in model.named_parameters()
        if name.split(".")[0] in TRAINED and not any(f"transformer_blocks.1.{part}" in name for part in UNREACHED)
    }
    assert names == expected
    assert len(names) > 100


def test_learning_rate() -> None:
    constant = training.config_of("learning_rate=1", "warmup=4")
    assert [learning_rate(constant, step) for step in (1, 2, 4, 5, 1000)] == [0.25, 0.5, 1, 1, 1]
    cosine = training.config_of("learning_rate=1", "warmup=4", "schedule=cosine", "steps=104")
    assert [learning_rate(cosine, step) for step in (2, 4, 54, 104)] == pytest.approx([0.5, 1, 0.5, 0])
    assert learning_rate(training.config_of("learning_rate=1", "warmup=0"), 1) == 1


def test_moving_average() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    average = MovingAverage({"w": weight}, 0.5)
    expected = 1.0
    for step, value in enumerate((2.0, 4.0, 3.0)):
        weight.data.fill_(value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.shadows["w"].item() == pytest.approx(expected)
    with average.in_place():
        assert weight.item() == pytest.approx(expected)
    assert weight.item() == 3.0
    assert average.shadows["w"].item() == pytest.approx(expected)


def test_useful_flops_of_flux_dev_by_hand() -> None:
    """A block of either kind has 12 d^2 weights; attention is two products forward, four backward. Linear layers cost
    once more for the gradient of their inputs, and the trained ones once more for that of their weights."""
    d, backbone, branch = 3072, 4096 + 512 + 1024, 4096 + 512

    def linear(tokens: int) -> int:
        return 2 * tokens * 12 * d * d

    def attention(tokens: int) -> int:
        return 4 * tokens * tokens * d

    expected = 57 * (2 * linear(backbone) + 3 * attention(backbone)) + 4 * (3 * linear(branch) + 3 * attention(branch))
    assert useful_flops("flux-dev", 1024, 1024) == pytest.approx(expected, rel=0.01)
