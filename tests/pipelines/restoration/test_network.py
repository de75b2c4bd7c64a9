"""`restore --model FILE` and `bench infer --model FILE` against spandrel alone, on networks with random weights."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import tarfile
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import cli

spandrel = pytest.importorskip("spandrel")

from lucidflux_data.config import resolve  # noqa: E402
from lucidflux_data.errors import ConfigError, InputError  # noqa: E402
from pipelines.restoration.config import NetworkConfig, NetworkModel  # noqa: E402
from pipelines.restoration.network import NetworkRestorer, load_network  # noqa: E402
from tests.support import networks  # noqa: E402

torch.set_num_threads(1)
SIZES = {"wide": (61, 40), "tall": (24, 55), "dot": (1, 3)}


def lucidflux(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of a command in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["lucidflux", *map(str, arguments)])
        try:
            cli.lucidflux_main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int]]:
    return networks.write_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def inputs(photo_paths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    photo = Image.open(next(path for path in photo_paths if path.stem == "astronaut")).convert("RGB")
    for name, size in SIZES.items():
        photo.crop((150, 60, 350, 260)).resize(size).save(folder / f"{name}.png")
    return folder


def alone(file: Path, image: Path) -> np.ndarray:
    """The image as spandrel's own loader and call give it, in 8 bits."""
    network = spandrel.ModelLoader("cpu").load_from_file(file).eval()
    pixels = torch.from_numpy(np.asarray(Image.open(image)).copy())
    result = network(pixels.permute(2, 0, 1)[None].float() / 255)[0]
    return (result.permute(1, 2, 0).double().numpy() * 255).round().astype(np.uint8)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("name", ["esrgan", "compact", "swinir"])
def test_both_commands_give_the_pixels_of_spandrel_alone(
    name: str, files: dict[str, tuple[Path, int]], inputs: Path, tmp_path: Path
) -> None:
    file, scale = files[name]
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    code, told, err = lucidflux("restore", inputs, "--out", tmp_path / "restored", "--model", file, "--json")
    assert code == 0, err
    assert json.loads(told)["restored"] == 3
    code, told, err = lucidflux(
        "bench", "infer", "--model", file, "--inputs", inputs, "--out", tmp_path / "out", "--json"
    )
    assert code == 0, err
    assert json.loads(told)["method"] == f"{name}[{sha256[:12]}]"
    folder = tmp_path / "out" / f"{name}[{sha256[:12]}]"
    for image, (width, height) in SIZES.items():
        expected = alone(file, inputs / f"{image}.png")
        assert expected.shape == (height * scale, width * scale, 3)
        assert image == "dot" or expected.std() > 5
        assert np.array_equal(pixels(tmp_path / "restored" / f"{image}.png"), expected)
        assert np.array_equal(pixels(folder / f"{image}.png"), expected)
    about = json.loads((folder / "method.json").read_text())
    assert about["weights"] == sha256
    assert about["settings"]["scale"] == str(scale)
    run = json.loads((tmp_path / "restored" / "run.json").read_text())
    assert run["settings"]["weights_sha256"] == sha256
    assert str(file.parent) not in json.dumps(run) + json.dumps(about)


def test_tiles_are_the_whole_where_the_network_sees_no_further_than_a_quarter_of_the_overlap(
    files: dict[str, tuple[Path, int]], inputs: Path, tmp_path: Path
) -> None:
    """Compact of two 3x3 convolutions between its first and last sees 4 pixels: an overlap of 16 is enough, 4 is not.
    Attention over windows sees where they begin, so that SwinIR's tiles differ by less than a level on average."""
    file, _ = files["compact"]
    arguments = ("bench", "infer", "--model", file, "--inputs", inputs, "--out", tmp_path)
    for overlap in (16, 4):
        code, _, err = lucidflux(*arguments, "--set", "tile=34", "--set", f"overlap={overlap}")
        assert code == 0, err
    expected = alone(file, inputs / "wide.png").astype(int)
    (enough,) = tmp_path.glob("compact[[]*,tile=34,overlap=16]")
    (little,) = tmp_path.glob("compact[[]*,tile=34,overlap=4]")
    assert np.abs(pixels(enough / "wide.png") - expected).max() <= 1  # rounding of a float at a half
    assert (pixels(enough / "wide.png") != expected).mean() < 0.001
    assert np.abs(pixels(little / "wide.png") - expected).max() > 1
    swinir, _ = files["swinir"]
    code, _, err = lucidflux("restore", inputs / "wide.png", "--out", tmp_path / "swinir", "--model", swinir,
                             "--tile", 40, "--set", "overlap=16")  # fmt: skip
    assert code == 0, err
    difference = np.abs(pixels(tmp_path / "swinir" / "wide.png") - alone(swinir, inputs / "wide.png").astype(int))
    assert 0 < difference.mean() < 1


@pytest.mark.slow
def test_ray_and_tars_give_the_same_bytes(files, inputs: Path, tmp_path: Path) -> None:
    file, _ = files["compact"]
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name in SIZES:
            tar.add(inputs / f"{name}.png", f"{name}.png")
    assert lucidflux("restore", inputs, "--out", tmp_path / "here", "--model", file)[0] == 0
    code, _, err = lucidflux("restore", tmp_path / "in.tar", "--out", tmp_path / "ray", "--model", file,
                             "--executor", "ray", "--num-cpus", 1)  # fmt: skip
    assert code == 0, err
    made = {path.name: path.read_bytes() for path in (tmp_path / "ray").rglob("*.png")}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "here").glob("*.png")}


def test_a_bucket_is_read_and_written(files, inputs: Path, store, monkeypatch: pytest.MonkeyPatch) -> None:
    file, _ = files["compact"]
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    store.upload("networks", inputs)
    given = ("s3://networks/wide.png", "--out", "s3://networks/out", "--model", file, "--json")
    code, told, err = lucidflux("restore", *given)
    assert code == 0, err
    assert json.loads(told)["restored"] == 1
    made = store.files("networks", "out/")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(made["out/wide.png"]))), alone(file, inputs / "wide.png"))
    assert json.loads(made["out/manifest.json"])["restored"] == 1


@pytest.mark.parametrize("outer", ["model", "net_g", "lit.model"])
def test_a_module_that_holds_the_network_is_looked_into(outer: str, files, inputs: Path, tmp_path: Path) -> None:
    """As training frameworks save it, with an architecture whose own names begin with `model.`, too."""
    image = pixels(inputs / "wide.png")
    for name in ("compact", "esrgan"):
        state = getattr(networks, name)().state_dict()
        torch.save(state, tmp_path / f"{name}.pth")
        torch.save({"state_dict": {f"{outer}.{key}": value for key, value in state.items()}}, tmp_path / "held.pth")
        made = [
            NetworkRestorer(NetworkConfig(model=NetworkModel(file=str(tmp_path / file), device="cpu"))).restore([image])
            for file in (f"{name}.pth", "held.pth")
        ]
        assert np.array_equal(*made)
    held = {f"{outer}.{key}": value for key, value in state.items()}
    torch.save(held | {"loss.weight": torch.ones(1)}, tmp_path / "two.pth")
    with pytest.raises(InputError, match="of no architecture"):
        load_network(NetworkModel(file=str(tmp_path / "two.pth"), device="cpu"))


def test_a_network_of_one_channel_is_given_each_colour(tmp_path: Path, inputs: Path) -> None:
    torch.manual_seed(0)
    network = networks.Compact(num_in_ch=1, num_out_ch=1, num_feat=4, num_conv=1, upscale=2)
    torch.save(network.state_dict(), tmp_path / "grey.pth")
    restorer = NetworkRestorer(NetworkConfig(model=NetworkModel(file=str(tmp_path / "grey.pth"), device="cpu")))
    image = pixels(inputs / "wide.png")
    (made,) = restorer.restore([image])
    for channel in range(3):
        given = torch.from_numpy(image[..., channel].copy())[None, None].float() / 255
        with torch.inference_mode():
            assert np.array_equal(made[..., channel], network(given)[0, 0].clamp(0, 1).numpy())


def test_a_failure_leaves_no_result_of_another_input(files, inputs: Path, tmp_path: Path) -> None:
    """An input that was restored and is replaced by what is no image; one of the same stem keeps its own."""
    photos = Path(shutil.copytree(inputs, tmp_path / "in"))
    command = ("restore", photos, "--out", tmp_path / "out", "--model", files["compact"][0], "--json")
    assert lucidflux(*command)[0] == 0
    assert (tmp_path / "out" / "wide.png").is_file()
    (photos / "wide.png").write_text("no image")
    code, told, err = lucidflux(*command)
    assert (code, json.loads(told)["failed"]) == (0, {"not_an_image": 1}), err
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"tall.png", "dot.png"}
    (photos / "wide.png").unlink()
    shutil.copyfile(photos / "tall.png", photos / "wide.bmp.png")
    assert lucidflux(*command)[0] == 0
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"tall.png", "dot.png", "wide.bmp.png"}


def test_weights_and_results_that_are_not_finite(files, inputs: Path, tmp_path: Path) -> None:
    """Infinite weights make a white image, which looks like one; weights that overflow fail the image."""
    torch.manual_seed(0)
    state = networks.compact().state_dict()
    for value, name in ((float("nan"), "nan"), (float("-inf"), "inf"), (3e38, "large")):
        changed = {key: tensor.clone() for key, tensor in state.items()}
        changed["body.0.weight"][0] = value
        save_file(changed, tmp_path / f"{name}.safetensors")
    for name in ("nan", "inf"):
        for command in (("restore", inputs), ("bench", "infer", "--inputs", inputs)):
            given = ("--out", tmp_path / "none", "--model", tmp_path / f"{name}.safetensors")
            code, _, err = lucidflux(*command, *given)
            assert (code, err.count("\n")) == (3, 1)
            assert f"{name}.safetensors (RealESRGAN Compact) holds NaN or infinity in body.0.weight" in err
    given = ("--out", tmp_path / "out", "--model", tmp_path / "large.safetensors", "--json")
    code, told, _ = lucidflux("restore", inputs, *given)
    assert (code, json.loads(told)["failed"]) == (0, {"not_finite": 3})
    code, told, _ = lucidflux("bench", "infer", "--inputs", inputs, *given)
    made = json.loads(told)
    assert (code, made["images"], made["missing"]) == (0, 0, ["dot", "tall", "wide"])
    assert set(made["remarks"].values()) == {"not_finite: the model gave numbers that are not finite"}


def test_other_weights_or_tiles_want_another_folder(files, inputs: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_file(networks.compact().state_dict(), tmp_path / "compact.safetensors")
    file, _ = files["compact"]
    given = ("restore", inputs, "--out", tmp_path / "out")
    assert lucidflux(*given, "--model", file)[0] == 0
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes(file.read_bytes())
    assert lucidflux(*given, "--model", moved)[0] == 0  # where the weights lie says nothing about them
    for changed in (("--model", tmp_path / "compact.safetensors"), ("--model", file, "--tile", 128)):
        code, _, err = lucidflux(*given, *changed)
        assert code == 2
        assert "was restored with another" in err


class Runs:
    """Pickled as a call."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_a_suffix_in_capitals_is_the_same_form(files, tmp_path: Path) -> None:
    file, _ = files["compact"]
    (tmp_path / "NET.SAFETENSORS").write_bytes(file.read_bytes())
    mine, other = (load_network(NetworkModel(file=str(path))) for path in (tmp_path / "NET.SAFETENSORS", file))
    assert torch.equal(mine.model.body[0].weight, other.model.body[0].weight)


def test_what_is_no_network_is_refused_before_any_work(inputs: Path, tmp_path: Path, capfd) -> None:
    torch.save({"params": Runs()}, tmp_path / "code.pth")
    torch.save({"params": {"a.weight": torch.zeros(3)}}, tmp_path / "unknown.pth")
    state = networks.esrgan().state_dict()
    torch.save({**state, next(iter(state)): torch.zeros(2)}, tmp_path / "shape.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    (tmp_path / "text.safetensors").write_text("no")
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as file:
        file.writestr("a", "b")
    whole = networks.compact().state_dict()
    torch.save({key: (100 * tensor).to(torch.int8) for key, tensor in whole.items()}, tmp_path / "int8.pth")
    torch.save({key: whole[key] for key in list(whole)[:-1]}, tmp_path / "lacking.pth")
    torch.save({**whole, "more.weight": torch.zeros(3)}, tmp_path / "more.pth")
    torch.save(whole, tmp_path / "flipped.pth")
    data = bytearray((tmp_path / "flipped.pth").read_bytes())
    data[data.find(whole["body.0.weight"].numpy().tobytes()) + 3] ^= 1
    (tmp_path / "flipped.pth").write_bytes(data)
    told = {
        "int8.pth": "(RealESRGAN Compact) holds integers for body.0.weight: quantised weights are not read",
        "lacking.pth": "does not load into the architecture that it looks like: there is no 'body.6.bias'",
        "more.pth": 'Unexpected key(s) in state_dict: "more.weight"',
        "flipped.pth": "is damaged: the checksum of flipped/data/",
        "code.pth": "would have to run code",
        "unknown.pth": "is of no architecture that spandrel knows; --extra-archs knows more",
        "shape.pth": "does not load into the architecture that it looks like",
        "tensor.pth": "holds no tensors by name",
        "text.safetensors": "is not a complete safetensors file",
        "zip.pth": "is damaged or not a file that torch wrote",
        "absent.pth": "absent.pth",
    }
    for name, sentence in told.items():
        for command in (("restore", inputs), ("bench", "infer", "--inputs", inputs)):
            code, _, err = lucidflux(*command, "--out", tmp_path / "out", "--model", tmp_path / name)
            assert (code, err.count("\n")) == (3, 1), err
            assert sentence in err
    assert not (tmp_path / "out" / "run.json").exists()
    assert "executed" not in capfd.readouterr().out


def test_settings_of_the_other_model_are_refused(files, inputs: Path, tmp_path: Path) -> None:
    file, _ = files["compact"]
    for option, value in {"--steps": 4, "--upscale": 2, "--weights": "w", "--quantize": "fp8", "--seed": 3}.items():
        code, _, err = lucidflux("restore", inputs, "--out", tmp_path / "out", "--model", file, option, value)
        assert code == 2
        assert f"--model {file}, whose outputs are its scale times the input" in err
    mistakes = {
        ("--scale", 4): "makes its outputs 2 times the input, and 4 times is asked for",
        ("--set", "steps=3"): "has the settings tile, overlap",
        ("--set", "tile=60"): "tile is over twice the overlap",
    }
    for given, sentence in mistakes.items():
        code, _, err = lucidflux("bench", "infer", "--model", file, "--inputs", inputs, "--out", tmp_path, *given)
        assert code == 2
        assert sentence in err
    for given in (("bicubic", "--model", file), ()):
        code, _, err = lucidflux("bench", "infer", *given, "--inputs", inputs, "--out", tmp_path)
        assert code == 2, err
    for command in (("restore", inputs), ("bench", "infer", "--inputs", inputs)):
        code, _, err = lucidflux(*command, "--out", tmp_path / "out", "--model", "picture.png")
        told = "--model picture.png is no file of weights: those end in .pth, .safetensors, .pt, .ckpt"
        assert (code, err) == (2, f"error: {told}\n")
    with pytest.raises(ConfigError, match="twice the overlap"):
        resolve(NetworkConfig, {"model": {"file": str(file)}, "overlap": 200})


def test_a_dry_run_says_what_would_run(files, inputs: Path, tmp_path: Path) -> None:
    file, scale = files["compact"]
    given = ("--inputs", inputs, "--out", tmp_path / "out", "--dry-run", "--json")
    code, told, err = lucidflux("bench", "infer", "--model", file, *given, "--set", "tile=80")
    assert code == 0, err
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert json.loads(told) == {
        "method": f"compact[{sha256[:12]},tile=80]",
        "weights": sha256,
        "settings": {"architecture": "RealESRGAN Compact", "scale": str(scale), "tile": "80", "overlap": "32"},
        "images": 3,
        "scale": scale,
        "warnings": [],
    }
    code, told, err = lucidflux("restore", inputs, "--out", tmp_path / "out", "--model", file, "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(told)["names"] == ["dot.png", "tall.png", "wide.png"]
    assert not (tmp_path / "out").exists()


def test_architectures_of_other_licences_are_asked_for(tmp_path: Path) -> None:
    extra = pytest.importorskip("spandrel_extra_arches")
    from spandrel_extra_arches.architectures.Restormer import Restormer

    torch.manual_seed(0)
    network = Restormer(dim=8, num_blocks=[1, 1, 1, 1], num_refinement_blocks=1, heads=[1, 1, 1, 1])
    torch.save({"params": network.state_dict()}, tmp_path / "restormer.pth")
    with pytest.raises(InputError, match="--extra-archs knows more"):
        load_network(NetworkModel(file=str(tmp_path / "restormer.pth")))
    found = load_network(NetworkModel(file=str(tmp_path / "restormer.pth"), extra_archs=True))
    assert found.architecture.id == "Restormer"
    assert extra.EXTRA_REGISTRY.get("Restormer") is not None
    with pytest.raises(InputError):  # asked for once is not asked for everywhere
        load_network(NetworkModel(file=str(tmp_path / "restormer.pth")))
