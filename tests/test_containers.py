"""The Dockerfile, what it is sent, and the compose file; the steps of the CPU stage in an environment of their own."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.paths import ROOT

KNOWN = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "CMD"}
BY_ROOT = ("apt-get update", "apt-get install", "rm -rf", "useradd")  # steps that need an image of their own
NAME = {"type": "string", "pattern": "^[a-zA-Z0-9._-]+$"}
TEXTS = {"type": "array", "items": {"type": "string"}}
# Of the Compose Specification (compose-spec.json) the keys that the file uses; others are refused.
SERVICE: dict[str, Any] = {
    "image": {"type": "string"},
    "platform": {"type": "string"},
    "build": {
        "type": "object",
        "properties": {"context": {"type": "string"}, "target": NAME},
        "additionalProperties": False,
    },
    "command": TEXTS,
    "environment": {"type": "object", "additionalProperties": {"type": ["string", "number", "null"]}},
    "shm_size": {"type": "string", "pattern": "^[0-9]+(b|k|m|g|kb|mb|gb)$"},
    "restart": {"type": "string", "pattern": "^(no|always|on-failure(:[0-9]+)?|unless-stopped)$"},
    "volumes": TEXTS,
    "ports": TEXTS,
    "depends_on": {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "properties": {"condition": {"enum": ["service_started", "service_healthy"]}},
            "required": ["condition"],
            "additionalProperties": False,
        },
    },
    "deploy": {
        "type": "object",
        "properties": {"replicas": {"type": "integer", "minimum": 1}},
        "additionalProperties": False,
    },
    "healthcheck": {
        "type": "object",
        "properties": {
            "test": {**TEXTS, "prefixItems": [{"enum": ["CMD", "CMD-SHELL", "NONE"]}]},
            "retries": {"type": "integer"},
            **{name: {"type": "string", "pattern": "^[0-9]+s$"} for name in ("interval", "timeout", "start_period")},
        },
        "additionalProperties": False,
    },
}
COMPOSE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "services": {
            "type": "object",
            "propertyNames": NAME,
            "additionalProperties": {"type": "object", "properties": SERVICE, "additionalProperties": False},
        },
        "volumes": {"type": "object", "additionalProperties": {"type": "object", "maxProperties": 0}},
    },
    "patternProperties": {"^x-": {}},
    "additionalProperties": False,
    "required": ["services"],
}


@dataclass
class Stage:
    """`base`: an image or a stage; `steps`: (instruction, value) behind its FROM."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def values(self, instruction: str) -> list[str]:
        return [value for name, value in self.steps if name == instruction]


def read_stages() -> list[Stage]:
    """The stages, line by line: one instruction of KNOWN a line, which ends in a backslash where it goes on."""
    stages: list[Stage] = []
    text = "\n".join(line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if not line.strip():
            continue
        instruction, _, value = line.partition(" ")
        assert instruction in KNOWN, line
        if instruction == "FROM":
            match = re.fullmatch(r"(\S+) AS ([a-z]+)", value)
            assert match is not None, line
            stages.append(Stage(match[1], match[2]))
        else:
            stages[-1].steps.append((instruction, value))
    return stages


STAGES = read_stages()


def sent(path: str) -> bool:
    """Whether .dockerignore leaves a path of the checkout in: the last pattern that fits decides."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#"):
            parts = [path, *map(str, Path(path).parents)][:-1]
            fits = any(fnmatch.fnmatch(part, pattern) for part in parts)
            if fits or (pattern.startswith("**/") and fnmatch.fnmatch(Path(path).name, pattern[3:])):
                kept = line.startswith("!")
    return kept


def test_the_stages_are_an_image_without_torch_and_one_over_it() -> None:
    cpu, cuda = STAGES
    assert (cpu.name, cuda.name, cuda.base) == ("cpu", "cuda", "cpu")
    assert re.fullmatch(r"python:3\.11-slim-[a-z]+", cpu.base), "an official image, of the Python that the locks are of"
    for stage in STAGES:
        assert stage.values("USER")[-1] == "lucidflux", "nothing runs as root"
        assert stage.values("CMD")
        for command in stage.values("CMD"):
            assert shlex.split(command.strip("[]").replace(",", ""))[0] in ("lucidflux", "lucidflux-data")


def test_all_that_is_installed_is_locked() -> None:
    """Each `pip install` is of a lock with hashes, or of the project alone."""
    installs = [step for stage in STAGES for step in stage.values("RUN") if "pip install" in step]
    assert len(installs) == 3
    for step in installs:
        locks = re.findall(r"requirements/\S+", step)
        if locks:
            assert step == f"pip install --require-hashes -r {locks[0]}"
            assert (ROOT / locks[0]).is_file()
        else:
            assert step == "pip install --no-deps --no-build-isolation ."
    lock = (ROOT / "requirements" / "cluster-py311.txt").read_text()
    assert "\nsetuptools==" in lock, "what builds the project without isolation"
    assert "\ntorch==" not in lock


def test_what_is_copied_is_there_and_is_sent() -> None:
    import tomllib

    copied = [name for stage in STAGES for value in stage.values("COPY") for name in shlex.split(value)[:-1]]
    assert [name for name in copied if not (ROOT / name).exists() or not sent(name)] == []
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"cli.py", "pyproject.toml", about["project"]["readme"], *about["project"]["license-files"]}
    needed |= {name.rstrip("*") for name in about["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert {name.split("/")[0] for name in needed} <= set(copied)
    for name in (".git/config", ".venv/bin/python", "tests/conftest.py", "docs/index.md", "demo/run/run.json"):
        assert not sent(name), name
    assert not sent("pipelines/__pycache__/x.pyc")
    assert sent("pipelines/commands/filter.py")


def test_the_compose_file_has_only_what_its_specification_knows() -> None:
    content = yaml.safe_load((ROOT / "compose.yaml").read_text())
    jsonschema.validate(content, COMPOSE)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "service": {}}, COMPOSE)
    services = content["services"]
    assert set(services) == {"minio", "bucket", "head", "worker"}
    assert services["worker"]["deploy"]["replicas"] == 2
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(content["volumes"])
        assert service.get("build", {"target": "cpu"})["target"] in {stage.name for stage in STAGES}
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "for this machine alone"
        for name, value in service["environment"].items():
            if re.search("TOKEN|PASSWORD|SECRET|USER|KEY", name):
                assert re.fullmatch(r"\$\{[A-Z_]+:\?.+\}", value), f"{name} is given by whoever starts it"


def test_ray_takes_the_commands_of_the_compose_file() -> None:
    """By Ray's own command line, which refuses unknown options."""
    from ray.scripts.scripts import cli as ray

    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    found = {name: service["command"] for name, service in services.items() if service["command"][0] == "ray"}
    assert set(found) == {"head", "worker"}
    for words in found.values():
        assert ray.commands[words[1]].make_context("ray", words[2:]).params["block"]
    head = ray.commands["start"].make_context("ray", found["head"][2:]).params
    assert (head["head"], head["num_cpus"], head["port"]) == (True, 0, 6379)
    assert ray.commands["start"].make_context("ray", found["worker"][2:]).params["address"] == f"head:{head['port']}"
    check = services["head"]["healthcheck"]["test"]
    assert check[:2] == ["CMD", "ray"]
    assert check[2] in ray.commands


def test_no_file_names_a_registry_of_ones_own() -> None:
    """Images of the public hub alone, by name and tag; ours has no host before its name."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    images = {STAGES[0].base, *(service["image"] for service in services.values())}
    for image in images:
        assert re.fullmatch(r"(minio/)?[a-z]+:[A-Za-z0-9.-]+", image), image
    assert "lucidflux:cpu" in images
    assert "--target cpu" in (ROOT / "docs" / "cluster.md").read_text()


@pytest.mark.slow
def test_the_bucket_of_the_compose_file_is_made(store: Any) -> None:
    """By the file's own command, at a store on this machine; once more where it is there."""
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["bucket"]
    program, *words = service["command"]
    assert program == "python"
    for _ in range(2):
        subprocess.run([sys.executable, *words], env=os.environ | store.environment, check=True, timeout=120)
    found = subprocess.run(
        [sys.executable, "-c", "import s3fs; print(s3fs.S3FileSystem().exists('lucidflux'))"],
        env=os.environ | store.environment,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == "True", found.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_steps_of_the_cpu_stage_run_in_a_fresh_environment(tmp_path: Path) -> None:
    """In the order of the file, with what it copies; pip and python are those of a new environment. Steps that need an
    image (Debian's packages, the user) are known by name. Fetches 300 MB."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    path = f"{tmp_path / 'env' / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    (tmp_path / "context").mkdir()
    ran = 0
    for instruction, value in STAGES[0].steps:
        if instruction == "COPY":
            *sources, target = shlex.split(value)
            for source in sources:
                place = tmp_path / "context" / target
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place)
                else:
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, place)
        elif instruction == "RUN" and value.startswith(BY_ROOT[0]):
            assert [part.strip().startswith(known) for part, known in zip(value.split("&&"), BY_ROOT, strict=True)] == (
                [True] * len(BY_ROOT)
            )
        elif instruction == "RUN":
            done = subprocess.run(
                ["sh", "-c", value],
                cwd=tmp_path / "context",
                env={"PATH": path, "HOME": str(tmp_path)},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            ran += 1
    assert ran == 3
