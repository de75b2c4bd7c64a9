"""Writes a lock: the exact versions and sha256 of everything that a set of extras installs on this Python and platform.

    python requirements/make_lock.py model,realesrgan > requirements/demo-full-py311.txt
    python requirements/make_lock.py "" requirements/demo-small.txt > requirements/demo-py311.txt

pip chooses the versions as it would for `pip install -e '.[model,realesrgan]'` and installs nothing. With constraints,
it takes a version's wheel for the oldest platform, the smaller one where there are two, and downloads the files: the
lock says behind each how many bytes that is.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIP = (sys.executable, "-m", "pip")
# Of wheels, the preferred first. pip wants a folder that it would install to, although it installs nothing.
PLATFORMS = ("manylinux2014_x86_64", *(f"manylinux_2_{glibc}_x86_64" for glibc in (17, 24, 27, 28)))
OLDEST_PLATFORM = ("--only-binary=:all:", "--target=unused", *(f"--platform={name}" for name in PLATFORMS))


def read_report(extras: str, constraints: str | None) -> list[dict[str, object]]:
    command = [*PIP, "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    if constraints is not None:
        command += [*OLDEST_PLATFORM, "--constraint", constraints]
    project = f".[{extras}]" if extras else "."
    done = subprocess.run([*command, "-e", project, "setuptools>=77"], cwd=ROOT, check=True, capture_output=True)
    return json.loads(done.stdout)["install"]


def format_lock(title: str, packages: list[dict[str, object]]) -> str:
    """One line a package, in order of name; the project itself is left out."""
    lines = [
        f"# {title}: Python {platform.python_version()}, {platform.system()} {platform.machine()}.",
        "# Made by requirements/make_lock.py; `make lock` makes it again.",
    ]
    for package in sorted(packages, key=lambda each: each["metadata"]["name"].lower()):
        if "dir_info" not in package["download_info"]:
            hashes = package["download_info"]["archive_info"]["hashes"]
            version = package["metadata"]["version"]
            lines.append(f"{package['metadata']['name'].lower()}=={version} --hash=sha256:{hashes['sha256']}")
    return "\n".join(lines) + "\n"


def add_sizes(lock: str) -> str:
    """The lock with `# BYTES` behind each package: of the file that pip downloads for it."""
    with tempfile.TemporaryDirectory() as folder:
        given, files = Path(folder) / "lock.txt", Path(folder) / "files"
        given.write_text(lock)
        command = [*PIP, "download", "-q", "--no-deps", "--require-hashes", "-r", given, "-d", files]
        subprocess.run(command, check=True, stdout=sys.stderr)
        sizes = {hashlib.sha256(path.read_bytes()).hexdigest(): path.stat().st_size for path in files.iterdir()}
    lines = [line if line[0] == "#" else f"{line}  # {sizes[line[-64:]]}" for line in lock.splitlines()]
    return "\n".join(lines) + "\n"


def main(extras: str, constraints: str | None = None) -> None:
    lock = format_lock(extras or "no extra", read_report(extras, constraints))
    print(lock if constraints is None else add_sizes(lock), end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
