"""`bench doctor`: which metrics can run here, what the others lack, and how to bring it to a closed network."""

from __future__ import annotations

from typing import TypedDict

from benchmarks import environment
from benchmarks.metrics import weights
from benchmarks.metrics.profiles import load_profile, profile_names
from lucidflux_data.iqa.fetch import REPOSITORY_URL, source
from lucidflux_data.iqa.pins import REVISIONS
from lucidflux_data.iqa.weight_files import hf_folder, hub_folder, location

LICENCE = (
    "pyiqa is under the PolyForm Noncommercial licence and S-Lab's: an extra, never needed for niqe, psnr and ssim"
)


WeightsFile = TypedDict("WeightsFile", {"file": str, "folder": str, "from": str})  # name, where it belongs, its source


class MetricState(TypedDict):
    """Whether a metric can run here."""

    status: str  # ready, package, weights, damaged or gpu: the first that applies
    packages: list[str]  # what to install
    files: list[WeightsFile]  # that are missing or damaged
    needs_gpu: bool
    sentence: str


class Diagnosis(TypedDict):
    """What `bench doctor --json` prints."""

    profiles: list[str]
    gpus: list[str]
    versions: dict[str, str | None]  # by distribution; None where it is not installed
    torch_hub: str  # folders that weights are looked for in
    hugging_face: str
    metrics: dict[str, MetricState]
    licence: str


def diagnose(profile: str | None) -> Diagnosis:
    """The state of every metric of a profile, of all profiles where None is named."""
    gpus = environment.gpus()
    profiles = [profile] if profile else profile_names()
    names = dict.fromkeys(spec.name for name in profiles for spec in load_profile(name).metrics)
    return {
        "profiles": profiles,
        "gpus": gpus,
        "versions": environment.versions(),
        "torch_hub": str(hub_folder()),
        "hugging_face": str(hf_folder()),
        "metrics": {name: _metric(name, bool(gpus)) for name in names},
        "licence": LICENCE,
    }


def _metric(name: str, gpu: bool) -> MetricState:
    packages, files = weights.missing_packages(name), weights.missing_weights(name)
    wrong = [(location(file), source(file)) for file in weights.wrong_weights(name)]
    status = "ready"
    if packages:
        status = "package"
    elif files:
        status = "weights"
    elif wrong:
        status = "damaged"
    elif name in weights.NEEDS_GPU and not gpu:
        status = "gpu"
    return {
        "status": status,
        "packages": packages,
        "files": [{"file": path.name, "folder": str(path.parent), "from": place} for path, place in [*files, *wrong]],
        "needs_gpu": name in weights.NEEDS_GPU,
        "sentence": weights.problem(name, "cuda" if gpu else "cpu") or f"{name} is ready",
    }


def recipe(found: Diagnosis) -> list[str]:
    """The lines of a shell that bring the missing weights to a machine without a network; [] where none is missing."""
    listed = [item for metric in found["metrics"].values() for item in metric["files"]]
    files = {(item["from"], item["folder"]): item for item in listed}  # two libraries look for one file in two folders
    if not files:
        return []
    hub, hugging_face = found["torch_hub"], found["hugging_face"]
    lines = ["# on a machine with a network, into the same folders:"]
    for (place, _), item in sorted(files.items()):
        if place.startswith(REPOSITORY_URL) and "/resolve/" not in place:
            lines += _download(place.removeprefix(REPOSITORY_URL), hugging_face)
        else:
            lines.append(f"mkdir -p {item['folder']} && curl -L -o {item['folder']}/{item['file']} {place}")
    return [
        *lines,
        "# then copy both trees here, and run with:",
        f"export TORCH_HOME={hub.removesuffix('/hub')} HF_HUB_CACHE={hugging_face} HF_HUB_OFFLINE=1",
    ]


def _download(repository: str, cache: str) -> list[str]:
    """Of the newest revision, or of the one that is pinned, which then has to be called `main`."""
    revision = REVISIONS.get(f"hf:{repository}")
    if revision is None:
        return [f"hf download {repository} --cache-dir {cache}"]
    refs = f"{cache}/models--{repository.replace('/', '--')}/refs"
    return [
        f"hf download {repository} --revision {revision} --cache-dir {cache}",
        f"(mkdir -p {refs} && printf {revision} > {refs}/main)",
    ]
