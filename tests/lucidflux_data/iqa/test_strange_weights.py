"""Weight files that strangers made: what they hold beside tensors is not called."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lucidflux_data.errors import ConfigError, VerificationError
from lucidflux_data.iqa import clipiqa, pins, pyiqa_models, weight_files
from tests.support.random_weights import environment, trust

pytest.importorskip("pyiqa")


class Calls:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where pyiqa looks, and no other."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    place = tmp_path / "torch" / "hub" / "pyiqa"
    place.mkdir(parents=True)
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(place), raising=False)
    return place


@pytest.mark.parametrize("before", ["0", "1"])
def test_nothing_in_a_weight_file_is_called(before: str, place: Path, tmp_path: Path, monkeypatch) -> None:
    """A file that is not pinned is not opened; a trusted one is read as tensors, also where the user's environment asks
    torch to load anything."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", before)
    canary, file = tmp_path / "canary", place / "musiq_koniq_ckpt-e95806b9.pth"
    torch.save({"params": Calls(canary)}, file)
    monkeypatch.delenv(pins.TRUSTED)
    with pytest.raises(VerificationError) as refused:
        pyiqa_models.pyiqa_model("musiq", "cpu")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"{file} is not opened, since it does not have the sha256 that is pinned for it" in str(refused.value)
    assert f"add the line {digest} to a file and set LUCIDFLUX_TRUSTED_WEIGHTS" in str(refused.value)
    trust(tmp_path)
    monkeypatch.setenv(pins.TRUSTED, str(tmp_path / "trusted.txt"))
    with pytest.raises(VerificationError, match="musiq was not loaded: one of its weight files holds something else"):
        pyiqa_models.pyiqa_model("musiq", "cpu")
    assert not canary.exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == before


def test_a_file_that_nobody_compared_is_not_opened(place: Path, tmp_path: Path, monkeypatch) -> None:
    """As if another release of pyiqa read a file that our table does not have."""
    torch.save({"params": {}}, place / "musiq_koniq_ckpt-e95806b9.pth")
    trust(tmp_path)
    monkeypatch.setitem(weight_files.WEIGHTS, "musiq", ())
    with pytest.raises(VerificationError, match="it is none of the files whose sha256 was compared"):
        pyiqa_models.pyiqa_model("musiq", "cpu")


def test_what_is_missing_is_not_fetched(place: Path) -> None:
    with pytest.raises(ConfigError, match=f"musiq are not here: musiq_koniq_ckpt-e95806b9.pth in {place}"):
        pyiqa_models.pyiqa_model("musiq", "cpu")


def test_torchscript_of_a_stranger_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such an archive runs its own code when it is loaded."""
    monkeypatch.delenv(pins.TRUSTED, raising=False)
    (tmp_path / clipiqa.WEIGHTS_FILE).write_bytes(b"PK\x03\x04 whatever it holds")
    with pytest.raises(VerificationError, match="clipiqa was not loaded"):
        clipiqa.load_clipiqa(weights=tmp_path / clipiqa.WEIGHTS_FILE)


@pytest.mark.parametrize("revision", ["a" * 40, pins.REVISIONS["hf:q-future/one-align"]])
def test_one_revision_of_code_is_taken_and_its_files_are_compared(revision: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv(pins.TRUSTED, raising=False)
    snapshot = tmp_path / "models--q-future--one-align" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(revision)
    for name in ("config.json", "preprocessor_config.json", "tokenizer.model", "pytorch_model.bin"):
        (snapshot / name).write_text("{}")
    why = "it does not have the sha256" if revision != "a" * 40 else f"is at revision {revision}, not at the one"
    with pytest.raises(VerificationError, match=why):
        pins.check_files("qalign")
    (tmp_path / "mine").write_text(f"{revision}\n{hashlib.sha256(b'{}').hexdigest()}  {snapshot}/pytorch_model.bin\n")
    monkeypatch.setenv(pins.TRUSTED, str(tmp_path / "mine"))
    assert snapshot / "pytorch_model.bin" in pins.check_files("qalign")


def test_code_of_a_repository_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyiqa trusts remote code: transformers would run custom_generate/generate.py of the repository."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(transformers.dynamic_module_utils, "create_dynamic_module", None)
    pyiqa_models._mend_qalign()
    canary = tmp_path / "canary"
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text(f"open({str(canary)!r}, 'w')\ndef generate(): pass\n")
    config = transformers.LlamaConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=0, vocab_size=8)
    model = transformers.LlamaForCausalLM(config)
    with pytest.raises(VerificationError, match="code that a repository of weights brings along is not run"):
        model.load_custom_generate(str(tmp_path), trust_remote_code=True)
    assert not canary.exists()


@pytest.mark.parametrize("content", [b"no digest", b"\xff\xfe", b"abcd  file"])
def test_a_list_that_is_none_is_named(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list").write_bytes(content)
    monkeypatch.setenv(pins.TRUSTED, str(tmp_path / "list"))
    with pytest.raises(ConfigError, match=f"LUCIDFLUX_TRUSTED_WEIGHTS names {tmp_path}/list"):
        pins.trusted_digests()
