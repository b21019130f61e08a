"""The borders between the packages, as tables: who may import what.

Checked on the source text (also imports inside functions and under ``TYPE_CHECKING``: a type is a
dependency too) and, for what must stay quick and light, by importing in a fresh interpreter.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

# -- the tables ------------------------------------------------------------------------------------

# Our own modules. A module belongs to the layer with the longest matching name; it may import its
# own layer and the layers named here.
LEAVES = ("fhecompile.errors", "fhecompile.options", "fhecompile.toml_file", "fhecompile.version")
CORE = (
    *("fhecompile.ir", "fhecompile.ckks", "fhecompile.functions", "fhecompile.plan"),
    *LEAVES,
)
RUNTIME_NEEDS = ("fhecompile.plan", "fhecompile.ckks", "fhecompile.errors", "fhecompile.version")
LAYERS: dict[str, tuple[str, ...]] = {
    "fhecompile.errors": (),
    "fhecompile.options": (),
    "fhecompile.toml_file": ("fhecompile.errors",),
    "fhecompile.version": (),
    "fhecompile.ckks": LEAVES,
    "fhecompile.functions": LEAVES,
    "fhecompile.ir": ("fhecompile.ckks", "fhecompile.functions", *LEAVES),
    "fhecompile.plan": ("fhecompile.ckks", *LEAVES),
    "fhecompile.frontend": CORE,
    "fhecompile.report": CORE,
    "passes": CORE,
    "runtime": RUNTIME_NEEDS,
    # Roles on files do not know of the service; the command line does.
    "runtime.service": ("runtime", *RUNTIME_NEEDS),
    "runtime.page": ("runtime", "runtime.service", *RUNTIME_NEEDS),  # a client of the service
    "runtime.__main__": ("runtime", "runtime.service", "runtime.page", *RUNTIME_NEEDS),
    # What ties the parts together: __init__, cli, compile and their like.
    "fhecompile": ("fhecompile.frontend", "fhecompile.report", "passes", "runtime", *CORE),
    "models": (
        "fhecompile",
        "fhecompile.frontend",
        "fhecompile.report",
        "passes",
        "runtime",
        *CORE,
    ),
}

# Libraries that only these files and folders may import.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "openfhe": ("runtime/library.py",),
    "torch": ("models/",),
    "onnx": ("fhecompile/frontend/", "models/"),
    "onnx_ir": ("fhecompile/frontend/", "models/"),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn"), ("runtime/service/", "runtime/page/")),
    **dict.fromkeys(("httpx", "sqlite3"), ("runtime/service/",)),
    "PIL": ("runtime/page/", "runtime/face_alignment.py", "models/"),
}

# Libraries that these folders may not import: a server that runs plans does not have them.
NEVER_IN: dict[str, tuple[str, ...]] = {
    "runtime/": ("click", "networkx", "onnxruntime", "rich", "scipy"),
}

# Except these, inside a function: `runtime.run --reference` compares with ONNX Runtime.
LAZY_EXCEPTIONS = {("runtime/run.py", "fhecompile.frontend.reference")}

# What must not be loaded by the time these have run.
COMPILER_START = ("onnx", "onnxruntime", "openfhe", "torch")
RUNTIME_START = (
    *("onnx", "onnx_ir", "onnxruntime", "torch", "passes"),
    *("click", "networkx", "rich", "scipy"),
    *("fastapi", "httpx", "sqlite3", "starlette", "uvicorn"),
)

# -- the imports of a source file ------------------------------------------------------------------

OURS = {name.partition(".")[0] for name in LAYERS} | {"tests"}


class Import(NamedTuple):
    """An import statement: the module it names, where, and whether it is inside a function."""

    target: str
    line: int
    lazy: bool


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(source: str, package: str) -> Iterator[Import]:
    """All imports of `source`, a module of `package`; `import_module("x")` counts as one."""

    def targets(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join([*parents, node.module or ""]).strip(".") if node.level else node.module
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if base.partition(".")[0] in OURS and is_module(name) else base
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            name = getattr(node.args[0], "value", None)
            if called in ("import_module", "__import__") and isinstance(name, str):
                yield name

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for target in targets(node):
            yield Import(target, node.lineno, lazy)
        inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    return walk(ast.parse(source), False)


def layer_of(module: str) -> str | None:
    """The layer a module belongs to: the longest name in LAYERS that is a parent of it."""
    found = [name for name in LAYERS if f"{module}.".startswith(f"{name}.")]
    return max(found, key=len, default=None)


def offences(path: str, source: str) -> list[str]:
    """The imports of the file at `path` (from the root, with slashes) that cross a border."""
    parts = PurePosixPath(path).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    layer = layer_of(module)
    assert layer is not None, f"{path} is in no layer"
    found = []
    for target, line, lazy in imports(source, package=".".join(parts[:-1])):
        library = target.partition(".")[0]
        if library in OURS:
            excepted = lazy and (path, target) in LAZY_EXCEPTIONS
            if layer_of(target) not in (layer, *LAYERS[layer]) and not excepted:
                allowed = ", ".join(LAYERS[layer]) or "nothing of ours"
                found.append(f"{path}:{line}: {target}: {layer} may import only {allowed}")
            continue
        homes = ONLY_IN.get(library)
        if homes is not None and not path.startswith(homes):
            found.append(f"{path}:{line}: {library} is only for {', '.join(homes)}")
        for folder, libraries in NEVER_IN.items():
            if path.startswith(folder) and library in libraries:
                found.append(f"{path}:{line}: {library} is not for {folder}")
    return found


# -- the tests -------------------------------------------------------------------------------------


def test_no_import_crosses_a_border() -> None:
    found = []
    for folder in sorted({name.partition(".")[0] for name in LAYERS}):
        for file in sorted(ROOT.joinpath(folder).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            found += offences(path, file.read_text(encoding="utf-8"))
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source", "offence"),
    [
        ("fhecompile/ir/a.py", "from fhecompile.ckks.layout import Layout", None),
        ("fhecompile/ir/a.py", "import passes", "fhecompile.ir may import only fhecompile.ckks"),
        ("fhecompile/ckks/a.py", "from fhecompile import ir", "fhecompile.ckks may import only"),
        ("fhecompile/ckks/a.py", "from fhecompile import compile", "fhecompile.ckks may import"),
        ("fhecompile/ckks/a.py", "from ..ir import tensor", "fhecompile.ckks may import only"),
        ("fhecompile/ckks/a.py", "from .b import c", None),
        ("fhecompile/ckks/__init__.py", "from . import b", None),
        ("fhecompile/errors.py", "import fhecompile.ir", "may import only nothing of ours"),
        (
            "passes/a.py",
            "if x:\n  import fhecompile.frontend",
            "a.py:2: fhecompile.frontend: passes",
        ),
        ("passes/a.py", "import runtime.run", "passes may import only"),
        ("passes/a.py", "import tests.oracle", "passes may import only"),
        ("runtime/a.py", "from passes import b", "runtime may import only"),
        ("runtime/a.py", "import fhecompile.plan.schema, runtime.b", None),
        ("runtime/a.py", "import rich.table", "rich is not for runtime/"),
        ("runtime/run.py", "def f():\n  import fhecompile.frontend.reference", None),
        ("runtime/run.py", "import fhecompile.frontend.reference", "runtime may import only"),
        ("runtime/a.py", "def f():\n  from fhecompile.frontend.reference import b", "runtime may"),
        ("runtime/run.py", "def f():\n  import onnxruntime", "onnxruntime is not for runtime/"),
        ("runtime/run.py", "def f():\n  import onnx", "onnx is only for fhecompile/frontend/"),
        ("runtime/library.py", "import openfhe", None),
        ("runtime/keys.py", "def f():\n  import openfhe", "openfhe is only for runtime/library.py"),
        ("runtime/keys.py", "import_module('openfhe')", "openfhe is only for runtime/library.py"),
        ("runtime/service/a.py", "import fastapi, httpx, sqlite3, runtime.roles", None),
        ("runtime/a.py", "import sqlite3", "sqlite3 is only for runtime/service/"),
        (
            "runtime/a.py",
            "def f():\n  import uvicorn",
            "uvicorn is only for runtime/service/, runtime/page/",
        ),
        ("runtime/roles.py", "import runtime.service.store", "runtime may import only"),
        ("runtime/roles.py", "import runtime.page.photo", "runtime may import only"),
        ("runtime/service/a.py", "import runtime.page.app", "runtime.service may import only"),
        ("runtime/__main__.py", "import runtime.service.commands, runtime.page.commands", None),
        ("runtime/page/a.py", "import PIL, uvicorn, runtime.service.client", None),
        ("runtime/page/a.py", "import httpx", "httpx is only for runtime/service/"),
        ("runtime/page/a.py", "from runtime.face_alignment import align", None),
        ("runtime/page/a.py", "import models.faces.synthetic", "runtime.page may import only"),
        ("models/faces/a.py", "import runtime.face_alignment", None),
        ("runtime/face_alignment.py", "import models.digits", "runtime may import only"),
        ("runtime/face_alignment.py", "import PIL.Image", None),
        ("runtime/a.py", "import PIL.Image", "PIL is only for runtime/page/, "),
        ("fhecompile/frontend/a.py", "from onnx_ir import Model", None),
        ("fhecompile/cli.py", "import torch.nn", "torch is only for models/"),
        ("models/a.py", "import torch, fhecompile, runtime.run", None),
    ],
)
def test_border_check(path: str, source: str, offence: str | None) -> None:
    found = offences(path, source)
    assert len(found) == (offence is not None), found
    assert offence is None or offence in found[0]


def loaded_after(code: str) -> set[str]:
    """Top-level modules in `sys.modules` after `code` has run in a fresh interpreter."""
    report = "import json, sys; print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


HELP = """
import runpy, sys
sys.argv = ["fhecompile", "--help"]
try:
    runpy.run_module("fhecompile.cli", run_name="__main__")
except SystemExit as leaving:
    assert not leaving.code, leaving.code
"""


@pytest.mark.parametrize(
    ("needs", "code", "banned"),
    [
        ("fhecompile/__init__.py", "import fhecompile", COMPILER_START),
        ("fhecompile/cli.py", HELP, COMPILER_START),
        ("runtime/run.py", "import runtime.run", RUNTIME_START),
        ("runtime/__main__.py", "import runtime.__main__", RUNTIME_START),
        ("runtime/service/client.py", "import runtime.service.client", RUNTIME_START),
        ("runtime/page/photo.py", "import runtime.page.photo", RUNTIME_START),
    ],
    ids=[
        *("import fhecompile", "fhecompile --help", "import runtime.run"),
        *("import runtime.__main__", "import runtime.service.client", "import runtime.page.photo"),
    ],
)
def test_start_is_light(needs: str, code: str, banned: tuple[str, ...]) -> None:
    if not ROOT.joinpath(needs).is_file():
        pytest.skip(f"{needs} is not there")
    assert not loaded_after(code).intersection(banned)
