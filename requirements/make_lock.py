"""Writes a lock: the exact versions and sha256 of everything that a set of extras installs on this Python and platform.

    python requirements/make_lock.py demo,model > requirements/demo-py311.txt

pip chooses the versions as it would for `pip install -e '.[demo,model]'` and installs nothing.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def read_report(extras: str) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run([*command, "-e", f".[{extras}]", "setuptools>=77"], cwd=ROOT, check=True, capture_output=True)
    return json.loads(done.stdout)["install"]


def format_lock(extras: str, packages: list[dict[str, object]]) -> str:
    """One line a package, in order of name; the project itself is left out."""
    lines = [
        f"# {extras}: Python {platform.python_version()}, {platform.system()} {platform.machine()}.",
        "# Made by requirements/make_lock.py; `make lock` makes it again.",
    ]
    for package in sorted(packages, key=lambda each: each["metadata"]["name"].lower()):
        if "dir_info" not in package["download_info"]:
            hashes = package["download_info"]["archive_info"]["hashes"]
            version = package["metadata"]["version"]
            lines.append(f"{package['metadata']['name'].lower()}=={version} --hash=sha256:{hashes['sha256']}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(format_lock(sys.argv[1], read_report(sys.argv[1])), end="")
