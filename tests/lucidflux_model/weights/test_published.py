"""Published files there and back, and refused when they are wrong, partial, foreign or would run code."""

from __future__ import annotations

import os
import pickle
import warnings
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
    save_lucidflux,
    split_prefix,
    strip_wrappers,
)
from lucidflux_model.weights.tensors import read_tensors
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


WRAPPED = {
    "ddp": lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
    "compiled": lambda state: {f"_orig_mod.{key}": tensor for key, tensor in state.items()},
    "both": lambda state: {f"module._orig_mod.{key}": tensor for key, tensor in state.items()},
    "inside": lambda state: {
        key.replace("blocks.0.", "blocks.0._orig_mod.").replace("layers.0.", "layers.0._fsdp_wrapped_module."): tensor
        for key, tensor in state.items()
    },
    "lightning": lambda state: {
        **{f"state_dict.module.{key}": tensor for key, tensor in state.items()},
        "optimizer_states.0.exp_avg": torch.zeros(2),
        "epoch": torch.zeros(1),
    },
    "basicsr": lambda state: {
        **{f"params.{key}": torch.zeros_like(tensor) for key, tensor in state.items()},
        **{f"params_ema.{key}": tensor for key, tensor in state.items()},
    },
    "comfy": lambda state: {
        **{f"model.diffusion_model.{key}": tensor for key, tensor in state.items()},
        "text_encoders.t5.weight": torch.zeros(2),
    },
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_prefixes_that_trainers_leave_are_stripped_in_every_file(tiny, tmp_path: Path, kind: str) -> None:
    from lucidflux_model.weights.layouts import to_published

    for part in ("transformer", "vae", "proxy"):
        ((_, (module, entries)),) = layouts_of(part, tiny[part]).items()
        state = {key: t.contiguous().clone() for key, t in to_published(entries, module.state_dict()).items()}
        save_file(WRAPPED[kind](state), tmp_path / f"{part}.safetensors")
        loaded = build(MODELS["tiny"], parts=(part,))[part]
        load_one(part, loaded, tmp_path / f"{part}.safetensors")
        assert all(torch.equal(loaded.state_dict()[key], t) for key, t in module.state_dict().items()), part


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("around", ["file", "parts"])
def test_a_wrapped_lucidflux_file_is_read(tiny, published: Path, tmp_path: Path, kind: str, around: str) -> None:
    """Wrapped as a whole, or part by part."""
    content = read_tensors(published)
    if around == "file":
        wrapped = WRAPPED[kind](content)
    else:
        parts = {part: WRAPPED[kind](split_prefix(content, part)) for part in LUCIDFLUX_PARTS}
        wrapped = {f"{part}.{key}": tensor for part, state in parts.items() for key, tensor in state.items()}
    torch.save(wrapped, tmp_path / "w.pth")
    loaded = build(MODELS["tiny"], parts=("conditioner", "connector"))
    load_lucidflux(loaded["conditioner"], loaded["connector"], tmp_path / "w.pth")
    for part in ("conditioner", "connector"):
        assert all(torch.equal(loaded[part].state_dict()[key], t) for key, t in tiny[part].state_dict().items())


def test_names_that_would_become_one_are_kept() -> None:
    state = {"a._orig_mod.weight": torch.zeros(1), "a.weight": torch.ones(1)}
    assert strip_wrappers(state) == state
    assert strip_wrappers({}) == {}
    old = {"model.0.weight": torch.zeros(1), "model.1.sub.0.weight": torch.zeros(1)}  # ESRGAN's own names
    assert strip_wrappers(old) == old


def test_what_is_written_is_no_secret_of_its_writer(tiny, tmp_path: Path) -> None:
    """safetensors makes files of mode 0600; others of the group train and restore with them."""
    before = os.umask(0o027)
    try:
        for name in ("w.safetensors", "w.pth"):
            save_lucidflux(tiny["conditioner"], tiny["connector"], tmp_path / name)
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o640, name
        os.umask(0o002)
        save_lucidflux(tiny["conditioner"], tiny["connector"], tmp_path / "w.safetensors")
        assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.pth", "w.safetensors"]


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
    (tmp_path / "newer.pth").write_bytes(pickle.dumps({"condition_lq": Hostile()}, protocol=4))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert "run code" in refused(tmp_path / "newer.pth")
    assert warned == []  # the sentence is all that a user sees
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
