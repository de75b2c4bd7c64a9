"""Files get their final names whole: product code writes through `Folder.publish`, or in a place that is named here.

Checked on the source, as `test_safe_code.py` does: a file that is opened to be written, saved by a library, copied or
renamed elsewhere fails until its way is stated.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT
from tests.test_safe_code import SOURCES, name_of

WRITING = {"write_bytes", "write_text", "savez", "savez_compressed", "tofile", "imwrite", "imsave", "save_file"}
WRITING |= {"to_csv", "to_parquet", "to_json", "to_excel", "save_pretrained", "save_to_disk", "rename", "touch"}
WRITING |= {"symlink_to", "hardlink_to", "copyfile", "copy2", "copytree", "link", "NamedTemporaryFile", "mkstemp"}
WRITING |= {"SummaryWriter", "ParquetWriter", "FileIO"}
CALLS = {"os.replace", "os.rename", "os.link", "os.symlink", "os.truncate", "shutil.copy", "shutil.move"}
CALLS |= {"torch.save", "np.save"}
IN_MEMORY = {"buffer", "sink", "floats", "io.BytesIO()"}  # an argument of what writes into memory
SCRIPTS = "benchmarks/throughput/"  # of developers: results that are committed by hand

# Where else a file is written, what does it, and why no half file stands under a final name.
ELSEWHERE: dict[str, tuple[set[str], str]] = {
    "lucidflux_data/storage/folder.py": ({"open", "os.replace"}, "the atomic writer itself"),
    "lucidflux_data/storage/lease.py": ({"open", "os.link", "os.replace"}, "a lease, made under a lock"),
    "lucidflux_data/iqa/fetch.py": ({"open", "os.replace"}, "FILE.part, compared with its sha256 before the rename"),
    "lucidflux_data/messages.py": ({"dump"}, "a pipe between our own processes"),
    "pipelines/commands/terminal.py": ({"open"}, "os.devnull"),
    "pipelines/execution/worker.py": ({"open"}, "os.devnull"),
    "lucidflux_model/weights/writing.py": ({"open", "os.replace", "save_file", "touch"}, "`aside`, for large tensors"),
    "lucidflux_model/weights/published.py": ({"torch.save"}, "`aside`"),
    "lucidflux_model/conversion/convert.py": (
        {"rename", "save_file", "save_pretrained", "write_text"},
        "OUT.part, which is renamed whole",
    ),
    "lucidflux_model/training/checkpoint_files.py": ({"open", "write_text"}, "a checkpoint that is renamed whole"),
    "lucidflux_model/training/checkpoints.py": ({"os.replace", "write_text"}, "the renames of it and of `latest`"),
    "lucidflux_model/training/loop.py": ({"save"}, "the call of the former"),
    "lucidflux_model/training/progress/log.py": (
        {"SummaryWriter", "open", "os.replace"},
        "a log that grows by lines, of which a half last one is passed over",
    ),
    "pipelines/training/on_ray.py": ({"touch"}, "an empty mark"),
    "pipelines/filter/grow.py": ({"os.link"}, "a second name below .tmp for a whole shard, which is then moved"),
    "pipelines/bench/making.py": ({"shutil.move"}, "whole images, from a folder beside"),
    "benchmarks/metrics/outside.py": ({"open"}, "a list in a folder for one run"),
    "benchmarks/metrics/outside_files/deqa_score.py": ({"open"}, "scores in that folder, in an environment of its own"),
    "benchmarks/metrics/outside_files/visualquality_r1.py": ({"open"}, "the same"),
    "benchmarks/methods/run.py": ({"open", "shutil.move"}, "images that decode to their end, and a log"),
    "benchmarks/methods/staging.py": ({"symlink_to"}, "links in a folder for one run"),
    "pipelines/demo/data.py": ({"symlink_to"}, "a link that leads nowhere, on purpose"),
}


def writes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func) or (node.func.attr if isinstance(node.func, ast.Attribute) else "")
        last = name.rpartition(".")[2]
        if IN_MEMORY.intersection(map(ast.unparse, node.args[:2])):
            continue
        if last == "open" and _opens_to_write(node, name):
            yield "open"
        elif last == "ZipFile" and len(node.args) > 1:
            yield last
        elif last in WRITING or name in CALLS:
            yield name if name in CALLS else last
        elif last == "replace" and name != "os.replace" and len(node.args) == 1 and not node.keywords:
            yield "Path.replace"
        elif last in ("save", "dump", "write_table") and len(node.args) > (last != "save"):
            yield last


def _opens_to_write(node: ast.Call, name: str) -> bool:
    if name == "os.open":
        return "O_WRONLY" in ast.unparse(node) or "O_RDWR" in ast.unparse(node)
    modes = [keyword.value for keyword in node.keywords if keyword.arg == "mode"] + node.args[:2]
    found = [part.value for mode in modes for part in ast.walk(mode) if isinstance(part, ast.Constant)]
    return any(re.fullmatch(r"[rwxabt+]*[wxa+][rwxabt+]*", value) for value in found if isinstance(value, str))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_writes_is_known(path) -> None:
    name = str(path.relative_to(ROOT))
    if name.startswith(SCRIPTS):
        return
    allowed, _ = ELSEWHERE.get(name, (set(), ""))
    assert set(writes(ast.parse(path.read_text()))) == allowed


def test_nothing_is_stated_of_a_file_that_is_gone() -> None:
    assert ELSEWHERE.keys() <= {str(path.relative_to(ROOT)) for path in SOURCES}


@pytest.mark.parametrize(
    "code",
    [
        "path.write_bytes(data)",
        "out.write_text(text)",
        "open(path, 'wb')",
        "path.open('ab' if more else 'wb')",
        "open(path, mode='r+')",
        "np.savez(path, a=a)",
        "np.save(path, a)",
        "image.save(path)",
        "cv2.imwrite(name, pixels)",
        "table.to_csv(path)",
        "pq.write_table(table, path)",
        "json.dump(value, file)",
        "shutil.copyfile(a, b)",
        "part.replace(path)",
        "os.rename(a, b)",
        "os.open(path, os.O_CREAT | os.O_WRONLY)",
    ],
)
def test_the_rule_finds(code: str) -> None:
    assert list(writes(ast.parse(code)))
