"""What may run code that a file brings along stands in one place, or nowhere: checked on the source.

`lucidflux_data/messages.py` pickles, between our own processes alone. Weights are safetensors, or are read with
`weights_only`; NumPy's files without pickles.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

PACKAGES = ("lucidflux_data", "lucidflux_model", "pipelines", "benchmarks")
SOURCES = [ROOT / "cli.py", *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))]
PICKLES = ("lucidflux_data/messages.py", "lucidflux_model/training/old_checkpoints.py")  # the second: names of a list
UNPICKLING = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
RUNNING = {"eval", "exec", "os.system", "os.popen", "torch.hub.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
RUNNING |= {"pd.read_pickle", "pandas.read_pickle", "tempfile.mktemp", "builtins.eval", "builtins.exec"}
MUST_BE = {
    "weights_only": True,
    "use_safetensors": True,
    "allow_pickle": False,
    "trust_remote_code": False,
    "shell": False,
}
NEEDED = {"torch.load": "weights_only", "from_pretrained": "use_safetensors"}
WITHOUT_WEIGHTS = {"AutoProcessor.from_pretrained"}  # JSON and vocabularies; code of theirs needs trust_remote_code
UNPACKING = {"extractall", "extract", "unpack_archive"}
TENSORS = "extractor.extract"  # ncnn's word for computing an output: no file is written


def name_of(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def faults(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"imports {a.name}" for a in node.names if a.name.split(".")[0] in UNPICKLING)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLING:
            yield f"imports from {node.module}"
        elif isinstance(node, ast.Call):
            yield from _faults_of_call(node)
        elif isinstance(node, ast.Dict):  # arguments that are handed on with **
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in MUST_BE:
                    yield from _fault_of_value(str(key.value), value)


def _faults_of_call(node: ast.Call) -> Iterator[str]:
    name = name_of(node.func)
    last = name.rpartition(".")[2]
    if name in RUNNING or (name == "__import__" and not isinstance(node.args[0], ast.Constant)):
        yield f"calls {name}"
    if last in UNPACKING and name != TENSORS:
        yield f"unpacks by {last}"
    given = {keyword.arg for keyword in node.keywords}
    for function, needed in NEEDED.items():
        asked = (name == function or last == function) and name not in WITHOUT_WEIGHTS
        if asked and needed not in given and None not in given:
            yield f"calls {name} without {needed}"
    for keyword in node.keywords:
        if keyword.arg in MUST_BE:
            yield from _fault_of_value(keyword.arg, keyword.value)


def _fault_of_value(name: str, value: ast.expr) -> Iterator[str]:
    if not (isinstance(value, ast.Constant) and value.value is MUST_BE[name]):
        yield f"{name}={ast.unparse(value)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_runs_what_it_reads(path) -> None:
    found = sorted(set(faults(ast.parse(path.read_text()))))
    if str(path.relative_to(ROOT)) in PICKLES:
        assert found == ["imports pickle"]
    else:
        assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "def f():\n    import pickle as p",
        "from pickle import loads",
        "import cloudpickle.x",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "np.load(path, allow_pickle=True)",
        "Model.from_pretrained(path)",
        "Model.from_pretrained(path, use_safetensors=None)",
        "Model.from_pretrained(path, use_safetensors=True, trust_remote_code=True)",
        "given = {'trust_remote_code': True}",
        "yaml.load(text)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "tar.extractall(place)",
        "torch.hub.load('a/b', 'c')",
    ],
)
def test_the_rule_finds(code: str) -> None:
    assert list(faults(ast.parse(code)))
