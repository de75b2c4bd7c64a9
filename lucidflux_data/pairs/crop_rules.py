"""Whether the crops of pairs meet the rules of the run that they are cut from, and what to say where they do not."""

from __future__ import annotations

from collections.abc import Sequence

from lucidflux_data.degradation.config import CropConfig
from lucidflux_data.selection import run as runs
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder

SHARED = ("min_laplacian_variance", "max_laplacian_variance", "max_flat_fraction")  # of `rules` and of `degrade.crop`


def describe_other_rules(sources: Sequence[str], crop: CropConfig) -> list[str]:
    """A sentence for each source that is a run of the filter with other blur and flat rules than the crops are drawn
    by; it has the options that take the run's. [] where crops follow the rules of every run."""
    sentences = []
    for source in sources:
        folder = Folder(source)
        if any(mark in source for mark in "*?[") or not folder.exists(run_folder.RUN_FILE):
            continue
        if "listed" not in run_folder.read_about(folder):
            continue
        rules = runs.read_run(folder)["config"]["rules"]
        other = {name: rules[name] for name in SHARED if rules[name] != getattr(crop, name)}
        if other:
            settings = " ".join(f"--set degrade.crop.{name}={value:g}" for name, value in other.items())
            own = ", ".join(f"{name} {getattr(crop, name):g}" for name in other)
            sentences.append(
                f"crops do not follow the rules of {folder} but their own ({own}): {settings} takes the run's"
            )
    return sentences
