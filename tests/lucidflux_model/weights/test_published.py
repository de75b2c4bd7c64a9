"""Published files there and back, and refused when they are wrong, partial, foreign or would run code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lucidflux_data.errors import InputError
from lucidflux_model.network.build import MODELS, build, build_random
from lucidflux_model.weights.published import (
    LUCIDFLUX_PARTS,
    layouts_of,
    load_lucidflux,
    load_one,
    read_tensors,
    save_lucidflux,
    split_prefix,
)
from tests.support.paths import DATA

GOLDEN = DATA / "lucidflux_reduced"


@pytest.fixture(scope="module")
def tiny() -> dict:
    return build_random("tiny")


@pytest.fixture(scope="module")
def published(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "lucidflux.pth"
    save_lucidflux(tiny["conditioner"], tiny["connector"], path)
    return path


@pytest.mark.parametrize("name", ["lucidflux.pth", "lucidflux.safetensors"])
def test_lucidflux_there_and_back(tiny, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_lucidflux(tiny["conditioner"], tiny["connector"], path)
    loaded = build(MODELS["tiny"], parts=("conditioner", "connector"))
    load_lucidflux(loaded["conditioner"], loaded["connector"], path)
    for part in ("conditioner", "connector"):
        for key, tensor in tiny[part].state_dict().items():
            assert torch.equal(loaded[part].state_dict()[key], tensor), key


def test_the_published_file_has_five_parts_of_86_86_10_10_4_keys(published: Path) -> None:
    content = torch.load(published, weights_only=True)
    assert list(content) == list(LUCIDFLUX_PARTS)
    assert [len(part) for part in content.values()] == [86, 86, 10, 10, 4]


@pytest.mark.parametrize("part", ["transformer", "vae", "proxy"])
def test_other_published_files_there_and_back(tiny, tmp_path: Path, part: str) -> None:
    from lucidflux_model.weights.layouts import to_published

    ((_, (module, entries)),) = layouts_of(part, tiny[part]).items()
    file = tmp_path / "file.safetensors"
    save_file(
        {key: tensor.contiguous().clone() for key, tensor in to_published(entries, module.state_dict()).items()}, file
    )
    loaded = build(MODELS["tiny"], parts=(part,))[part]
    load_one(part, loaded, file)
    for key, tensor in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    assert not any(tensor.is_meta for tensor in loaded.state_dict().values())


def test_the_vae_is_converted_as_diffusers_converts_it(tiny) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    from lucidflux_model.weights.layouts import to_published

    ((_, (module, entries)),) = layouts_of("vae", tiny["vae"]).items()
    theirs = convert_ldm_vae_checkpoint(to_published(entries, module.state_dict()), dict(module.config))
    ours = module.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in ours)


def test_a_wrapped_swinir_file_is_read(tiny, tmp_path: Path) -> None:
    from lucidflux_model.weights.layouts import to_published

    ((_, (module, entries)),) = layouts_of("proxy", tiny["proxy"]).items()
    state = {f"module.{key}": tensor for key, tensor in to_published(entries, module.state_dict()).items()}
    torch.save({"state_dict": state}, tmp_path / "swinir.ckpt")
    loaded = build(MODELS["tiny"], parts=("proxy",))["proxy"]
    load_one("proxy", loaded, tmp_path / "swinir.ckpt")
    assert torch.equal(loaded.conv_last.weight, module.conv_last.weight)


def refused(path: Path) -> str:
    components = build(MODELS["tiny"], parts=("conditioner", "connector"))
    with pytest.raises(InputError) as error:
        load_lucidflux(components["conditioner"], components["connector"], path)
    assert all(tensor.is_meta for tensor in components["connector"].state_dict().values())
    return str(error.value)


def test_refused_files_are_named_with_their_keys(published: Path, tmp_path: Path) -> None:
    content = torch.load(published, weights_only=True)
    path = tmp_path / "w.pth"

    partial = {**content, "modulation_ldr": {k: v for k, v in content["modulation_ldr"].items() if k != "linear.bias"}}
    torch.save(partial, path)
    assert "modulation_ldr" in refused(path)
    assert "1 missing (linear.bias)" in refused(path)

    torch.save({name: part for name, part in content.items() if name != "connector"}, path)
    assert "1 missing (connector)" in refused(path)

    torch.save({**content, "optimizer": {"step": torch.zeros(1)}}, path)
    assert "1 unknown (optimizer)" in refused(path)

    wider = {**content["connector"], "redux_up.bias": torch.zeros(7)}
    torch.save({**content, "connector": wider}, path)
    assert "redux_up.bias (7,) instead of (72,)" in refused(path)

    save_file(split_prefix(load_file(GOLDEN / "weights.safetensors"), "flux"), tmp_path / "flux.safetensors")
    assert "5 missing (condition_lq, condition_ldr" in refused(tmp_path / "flux.safetensors")


def test_damaged_and_foreign_files(published: Path, tmp_path: Path) -> None:
    data = published.read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    assert "damaged" in refused(tmp_path / "cut.pth")
    (tmp_path / "text.pth").write_text("<html>401</html>")
    assert "text.pth" in refused(tmp_path / "text.pth")
    (tmp_path / "cut.safetensors").write_bytes((GOLDEN / "weights.safetensors").read_bytes()[:1000])
    assert "not a complete safetensors file" in refused(tmp_path / "cut.safetensors")
    assert "is not there" in refused(tmp_path / "none.pth")


class Hostile:
    def __reduce__(self):
        return os.system, ("touch " + os.environ["LUCIDFLUX_TEST_MARK"],)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "ran"
    monkeypatch.setenv("LUCIDFLUX_TEST_MARK", str(mark))
    torch.save({"condition_lq": Hostile()}, tmp_path / "hostile.pth")
    assert "run code" in refused(tmp_path / "hostile.pth")
    assert not mark.exists()


def test_a_wrong_derived_table_is_refused(tiny, tmp_path: Path) -> None:
    from lucidflux_model.weights.layouts import to_published

    ((_, (module, entries)),) = layouts_of("proxy", tiny["proxy"]).items()
    state = to_published(entries, module.state_dict())
    name = "layers.0.residual_group.blocks.0.attn.relative_position_index"
    state[name] = state[name].flip(0)
    torch.save(state, tmp_path / "swinir.pth")
    with pytest.raises(InputError, match="relative_position_index"):
        load_one("proxy", build(MODELS["tiny"], parts=("proxy",))["proxy"], tmp_path / "swinir.pth")


def test_read_tensors_joins_names(tmp_path: Path) -> None:
    torch.save({"a": {"b": torch.ones(2)}, "step": 3}, tmp_path / "x.pth")
    assert list(read_tensors(tmp_path / "x.pth")) == ["a.b"]
