"""From published files (of reduced width, randomly filled) to a folder that from_pretrained reads, and the hub."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import cli
from lucidflux_data.errors import ConfigError, FolderBusy, InputError, VerificationError
from lucidflux_model.conversion import convert as module
from lucidflux_model.conversion.convert import compute_prompt, convert, export, find_sources, verify, write_shards
from lucidflux_model.inference.config import ModelConfig, weights_digest
from lucidflux_model.inference.loading import load_pipeline
from lucidflux_model.network.build import build_random
from tests.support.commands import next_commands
from tests.support.leases import foreign, write_lease
from tests.support.paths import ROOT
from tests.support.published_files import write_published

LUCIDFLUX = str(Path(sys.executable).with_name("lucidflux"))


def quiet(_: str) -> None:
    """Progress lines are not looked at."""


@pytest.fixture(scope="module")
def tiny() -> dict:
    return build_random("tiny")


@pytest.fixture(scope="module")
def files(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `weights download` leaves, at tiny's sizes."""
    folder = tmp_path_factory.mktemp("files")
    write_published(tiny, folder)
    return folder


@pytest.fixture(scope="module")
def converted(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "weights"
    convert(files, out, "tiny", quiet)
    return out


def restore(pipeline) -> np.ndarray:
    image = np.random.default_rng(1).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    generator = torch.Generator().manual_seed(3)
    return pipeline(image, 2, upscale=2, generator=generator, output_type="np").images


def test_published_files_restore_as_their_modules_do(tiny, converted: Path) -> None:
    loaded = load_pipeline(ModelConfig(name="tiny", weights=str(converted)), "fast")
    for part, component in tiny.items():
        state = getattr(loaded, part).state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in component.state_dict().items()), part
    built = load_pipeline(ModelConfig(name="tiny"), "fast")
    assert np.abs(restore(loaded) - restore(built)).max() < 1e-4


def test_export_gives_the_published_file_back(files: Path, converted: Path, tmp_path: Path) -> None:
    export(converted, tmp_path / "lucidflux.pth")
    ours = torch.load(tmp_path / "lucidflux.pth", weights_only=True)
    theirs = torch.load(files / "lucidflux.pth", weights_only=True)
    assert ours.keys() == theirs.keys()
    for part in theirs:
        assert all(torch.equal(ours[part][key], tensor) for key, tensor in theirs[part].items())


def test_verify_notices_a_changed_and_a_missing_file(converted: Path, tmp_path: Path) -> None:
    import shutil

    assert verify(converted)["verified"]
    copy = tmp_path / "copy"
    shutil.copytree(converted, copy)
    path = copy / "proxy" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (copy / "vae" / "config.json").unlink()
    with pytest.raises(VerificationError, match=r"proxy/diffusion_pytorch_model.safetensors has changed") as error:
        verify(copy)
    assert "vae/config.json is missing" in str(error.value)


def test_verify_notices_weights_of_another_shape(converted: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(converted, copy)
    path = copy / "connector" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    save_file({**state, "redux_up.bias": state["redux_up.bias"][:-1].clone()}, path, metadata={"format": "pt"})
    about = json.loads((copy / "weights.json").read_text())
    about["files"]["connector/diffusion_pytorch_model.safetensors"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (copy / "weights.json").write_text(json.dumps(about))
    with pytest.raises(VerificationError, match=r"redux_up\.bias \(71,\) instead of \(72,\)"):
        verify(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
def test_verify_notices_what_is_no_number(converted: Path, tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    """The hashes are those of the folder: it was made of weights that had diverged."""
    import shutil

    shutil.copytree(converted, tmp_path / "copy")
    path = tmp_path / "copy" / "connector" / "diffusion_pytorch_model.safetensors"
    state = {key: tensor.to(dtype) for key, tensor in load_file(path).items()}
    about = json.loads((tmp_path / "copy" / "weights.json").read_text())

    def write() -> None:
        save_file(state, path, metadata={"format": "pt"})
        about["files"]["connector/diffusion_pytorch_model.safetensors"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (tmp_path / "copy" / "weights.json").write_text(json.dumps(about))

    write()
    assert verify(tmp_path / "copy")["verified"]
    state["redux_up.bias"] = torch.cat([state["redux_up.bias"][:-1].float(), torch.tensor([value])]).to(dtype)
    write()
    with pytest.raises(VerificationError, match=r"connector holds NaN or infinity in redux_up\.bias"):
        verify(tmp_path / "copy")


def test_files_of_a_folder_can_be_read_by_those_who_may_read_the_folder(files: Path, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        convert(files, tmp_path / "weights", "tiny", quiet)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "weights").rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o644}


def test_a_second_conversion_leaves_what_the_first_one_writes(files: Path, converted: Path, tmp_path: Path) -> None:
    part = tmp_path / "weights.part"
    write_lease(str(part), foreign())
    (part / "transformer").mkdir()
    with pytest.raises(FolderBusy, match="process 4242 on node-7"):
        convert(files, tmp_path / "weights", "tiny", quiet)
    assert (part / "transformer").is_dir()
    assert [path.name for path in converted.iterdir() if path.name.startswith(".")] == []
    assert [path.name for path in converted.parent.iterdir()] == [converted.name]


def test_the_weights_digest_follows_the_weights(converted: Path, files: Path) -> None:
    plain = weights_digest(ModelConfig(name="tiny", weights=str(converted)))
    assert plain == weights_digest(ModelConfig(name="tiny", weights=str(converted), offload="none"))
    assert plain != weights_digest(ModelConfig(name="tiny"))
    assert plain != weights_digest(
        ModelConfig(name="tiny", weights=str(converted), trained=str(files / "lucidflux.pth"))
    )


def test_missing_and_wrong_sources_leave_nothing_behind(files: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no lucidflux.pth, flux1-dev.safetensors"):
        find_sources(tmp_path)
    partial = tmp_path / "partial"
    partial.mkdir()
    for path in files.iterdir():
        (partial / path.name).symlink_to(path)
    (partial / "ae.safetensors").unlink()
    (partial / "ae.safetensors").symlink_to(files / "flux1-dev.safetensors")
    with pytest.raises(InputError, match=r"ae\.safetensors: ae does not hold this model's weights"):
        convert(partial, tmp_path / "out", "tiny", quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["partial"]
    with pytest.raises(InputError, match="does not hold this model's weights"):
        convert(files, tmp_path / "out", "flux-dev", quiet)
    with pytest.raises(ConfigError, match="there already"):
        convert(files, files, "tiny", quiet)


def test_several_shards_are_read_back(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 200_000)
    state = tiny["transformer"].state_dict()
    write_shards(state, tmp_path / "t", torch.float32)
    tiny["transformer"].save_config(tmp_path / "t")
    assert len(list((tmp_path / "t").glob("*.safetensors"))) > 3
    loaded = type(tiny["transformer"]).from_pretrained(tmp_path / "t").state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("limit", [1000, 1001, 200_000])
def test_shards_are_filled_in_order_and_named_as_before(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float16 written as float32; two names of one tensor are written twice. The rule as it was written out by hand."""
    monkeypatch.setattr(module, "SHARD_BYTES", float(limit))
    sizes = [100, 150, 1, 249, 250, 7, 90, 100, 60]
    state = {f"t{k}": torch.arange(size, dtype=torch.float16) for k, size in enumerate(sizes)}
    state["tied"] = state["t7"]
    write_shards(state, tmp_path / "t", torch.float32)
    shards: list[list[str]] = [[]]
    filled = 0
    for key, tensor in state.items():
        if shards[-1] and filled + 4 * len(tensor) > limit:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += 4 * len(tensor)
    stem, n = "diffusion_pytorch_model", len(shards)
    names = [f"{stem}.safetensors"] if n == 1 else [f"{stem}-{k + 1:05d}-of-{n:05d}.safetensors" for k in range(n)]
    index = tmp_path / "t" / f"{stem}.safetensors.index.json"
    if n > 1:
        places = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        total = 4 * sum(len(tensor) for tensor in state.values())
        wanted = {"metadata": {"total_size": total}, "weight_map": places}
        assert index.read_text() == json.dumps(wanted, indent=2, sort_keys=True) + "\n"
    assert {path.name for path in (tmp_path / "t").iterdir()} == {*names, *([index.name] if n > 1 else [])}
    for name, keys in zip(names, shards, strict=True):
        save_file({key: state[key].float().clone() for key in keys}, tmp_path / name, metadata={"format": "pt"})
        assert (tmp_path / "t" / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLUX.1-dev's text encoders and tokenizers, small: an alphabet for a vocabulary."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz,-"
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1, "pad_token_id": len(pieces) - 1}
    unigrams = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -2.0) for letter in [*letters, "\u2581"])]
    torch.manual_seed(0)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=None,
        transformer=None,
        text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=len(pieces), **sizes, **ends)),
        tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77),
        text_encoder_2=T5EncoderModel(T5Config(vocab_size=40, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2)),
        tokenizer_2=T5TokenizerFast(vocab=unigrams, extra_ids=0, model_max_length=512),
    )
    folder = tmp_path_factory.mktemp("encoders")
    pipeline.save_pretrained(folder)
    return folder


def test_commands_on_weights_end_with_commands(files: Path, encoders: Path, tmp_path: Path) -> None:
    """Typed as they stand, each names what was made by the one before."""
    folder, prompt = tmp_path / "my weights", tmp_path / "my files" / "prompt_embeddings.safetensors"
    prompt.parent.mkdir()

    def said(*words: object) -> str:
        done = CliRunner().invoke(cli.app, ["weights", *map(str, words)])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    converted = said("convert", files, "--out", folder, "--model", "tiny")
    restore, train = next_commands(converted, "lucidflux weights convert")
    assert restore == f"lucidflux restore PHOTOS --out DIR --weights '{folder}' --model tiny"
    assert train == f"lucidflux train --data PAIRS --out RUN --weights '{folder}' --model tiny"
    assert next_commands(said("verify", folder), "lucidflux weights verify") == [restore, train]
    computed = said("prompt", encoders, "--out", prompt)
    convert_ = f"lucidflux weights convert '{prompt.parent}' --out DIR"
    assert next_commands(computed, "lucidflux weights prompt") == [convert_]
    assert next_commands(said("parity", ROOT / "tests/data/lucidflux_reduced"), "lucidflux weights parity")


@torch.no_grad()
def test_the_prompt_is_embedded_once(encoders: Path, tmp_path: Path) -> None:
    """T5 padded to 512 without a mask, CLIP's pooled output: computed again from the encoders alone."""
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

    out = tmp_path / "prompt_embeddings.safetensors"
    assert compute_prompt(encoders, out) == {"txt": [1, 512, 24], "vec": [1, 16]}
    tensors = load_file(out)
    t5, clip = (
        T5EncoderModel.from_pretrained(encoders / "text_encoder_2"),
        CLIPTextModel.from_pretrained(encoders / "text_encoder"),
    )
    prompt = "restore this image into high-quality, clean, high-resolution result"
    ids = T5TokenizerFast.from_pretrained(encoders / "tokenizer_2")(prompt).input_ids
    assert len(ids) < 100
    text = t5(torch.tensor([ids + [0] * (512 - len(ids))])).last_hidden_state
    ids = CLIPTokenizer.from_pretrained(encoders / "tokenizer")(prompt).input_ids
    pooled = clip(torch.tensor([ids + [ids[-1]] * (77 - len(ids))])).pooler_output
    assert torch.equal(tensors["txt"], text.bfloat16())
    assert torch.equal(tensors["vec"], pooled.bfloat16())
    with pytest.raises(InputError, match="holds no text encoders"):
        compute_prompt(tmp_path, out)


class Hub(http.server.BaseHTTPRequestHandler):
    """Enough of the hub: one open file, cut off at the first try, and one behind a licence."""

    content = bytes(range(256)) * 48_000  # more than one piece of the hub's client, 10 MiB
    sent: list = []  # noqa: RUF012 - what was asked of the server, shared by its requests
    etag = ""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        if "FLUX" in self.path or "/resolve/" not in self.path:
            self.send_response(403 if "FLUX" in self.path else 404)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0] or 0)
        self.send_response(206 if first else 200)
        self.send_header("ETag", f'"{type(self).etag}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(self.content) - first))
        self.send_header("Content-Range", f"bytes {first}-{len(self.content) - 1}/{len(self.content)}")
        self.end_headers()
        if body:
            self.sent.append(first)
            end = None if first else len(self.content) - 1000  # the first answer breaks off
            self.wfile.write(self.content[first:end])
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def hub():
    Hub.sent, Hub.etag = [], hashlib.sha256(Hub.content).hexdigest()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def fetch(endpoint: str, out: Path, name: str, offline: str = "0") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": offline, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HOME": str(out / "home"), "NO_PROXY": "127.0.0.1"}
    command = [LUCIDFLUX, "weights", "download", "--out", str(out), "--only", name]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)


def test_download_resumes_and_checks_the_hash_of_the_hub(hub: str, tmp_path: Path) -> None:
    done = fetch(hub, tmp_path, "lucidflux.pth")
    assert done.returncode == 0, done.stderr
    assert next_commands(done.stdout, "lucidflux weights download") == [
        f"lucidflux weights convert {tmp_path} --out DIR"
    ]
    assert (tmp_path / "lucidflux.pth").read_bytes() == Hub.content
    assert Hub.etag in done.stdout
    again = fetch(hub, tmp_path, "lucidflux.pth")
    assert again.returncode == 0
    assert Hub.sent == [0, 10 << 20]  # resumed where it broke off, and not sent a second time


def test_download_refuses_other_bytes_and_says_what_a_gate_wants(hub: str, tmp_path: Path) -> None:
    swinir = fetch(hub, tmp_path, "general_swinir_v1.ckpt")
    assert swinir.returncode == 6
    assert "577b8f84" in swinir.stderr
    assert not (tmp_path / "general_swinir_v1.ckpt").exists()
    gated = fetch(hub, tmp_path, "flux1-dev.safetensors")
    assert gated.returncode == 3
    assert "accept it at https://huggingface.co/black-forest-labs/FLUX.1-dev" in gated.stderr
    assert fetch(hub, tmp_path, "flux2.safetensors").returncode == 2


def test_download_without_a_hub_is_one_line(tmp_path: Path) -> None:
    for endpoint, offline in (("http://127.0.0.1:9", "0"), ("http://127.0.0.1:9", "1")):
        done = fetch(endpoint, tmp_path, "lucidflux.pth", offline)
        assert done.returncode == 3, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith("error: ")
