"""The environments, their make targets and the CI script, without interpreters or an index.

An environment's python is a shell script in place of pip: what is tested is what is asked of it and
what is made of its answers.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NO_TORCH = "echo 'ERROR: No matching distribution found for torch==2.13.0+cpu'; exit 1"
INDEX = "https://download.pytorch.org/whl/cpu"
GET_TORCH = (
    f"  Its wheels are at {INDEX}; where that cannot be reached,\n"
    "  PIP_FIND_LINKS=FOLDER names a folder that holds one. The other tests do without: make test\n"
)
PIP = "-m pip install --disable-pip-version-check --no-compile --progress-bar off"
TRAIN = "--editable .[test,train] torch==2.13.0+cpu"


@pytest.fixture
def setup(tmp_path: Path) -> ModuleType:
    """A copy of setup_env.py alone in a folder, with its own pyproject.toml."""
    shutil.copy(ROOT / "setup_env.py", tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'a'\n\n[tool.b]\nc = 1\n")
    spec = importlib.util.spec_from_file_location("setup_env_copy", tmp_path / "setup_env.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Calls = Callable[[], list[str]]


@pytest.fixture
def machine(setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """machine(versions, pip=, check=): the interpreters, and what their pip and imports do in sh.

    Gives a function that lists the calls of pip as "VERSION ARGUMENTS".
    """

    def start(versions: list[str], pip: str = ":", check: str = ":") -> Calls:
        found = [{"path": "/" + v, "version": [*map(int, v.split("."))]} for v in versions]

        def make_venv(env: Any, info: dict[str, Any]) -> None:
            write_script(
                Path(env.path("bin", "python")),
                f'#!/bin/sh\nversion={info["path"][1:]}\nif [ "$1" = -I ]; then {check}; exit; fi\n'
                f'echo "$version $*" >> {tmp_path}/calls\n{pip}\n',
            )

        def interpreters(version: tuple[int, int]) -> list[dict[str, Any]]:
            return [info for info in found if tuple(info["version"][:2]) == version]

        monkeypatch.setattr(setup, "make_venv", make_venv)
        monkeypatch.setattr(setup, "interpreters", interpreters)
        monkeypatch.setattr(setup, "why_no_openfhe", lambda info: "")
        calls = tmp_path / "calls"
        return lambda: calls.read_text().splitlines() if calls.exists() else []

    return start


def test_training_environment_is_made_once_and_again_when_the_project_changes(
    setup: ModuleType, machine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = machine(["3.10.1", "3.11.2"])
    assert setup.main(["--train"]) == 0
    assert calls() == [f"3.11.2 {PIP} {TRAIN}"]
    ready = "setup: .venv-train is ready: Python 3.11.2, training, no OpenFHE\n"
    assert capsys.readouterr().out == (
        "setup: making .venv-train with Python 3.11.2 (/3.11.2)\n"
        "setup: installing fhecompile[test,train]; the first time takes some minutes\n" + ready
    )
    assert not (tmp_path / ".venv").exists()

    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text() + "d = 2\n")  # in a tool's table
    assert setup.main(["--train"]) == 0
    assert (len(calls()), capsys.readouterr().out) == (1, ready)

    project.write_text("[project]\nname = 'b'\n")
    assert setup.main(["--train"]) == 0
    assert len(calls()) == 2
    assert setup.main(["--train", "--rebuild"]) == 0
    assert len(calls()) == 3


def test_the_two_environments_do_not_touch_each_other(
    setup: ModuleType, machine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = machine(["3.10.1", "3.11.2"])
    assert setup.main([]) == 0
    assert setup.main(["--train"]) == 0
    assert calls() == [f"3.10.1 {PIP} --editable .[runtime,dev]", f"3.11.2 {PIP} {TRAIN}"]
    stamps = [
        json.loads((tmp_path / name / "ready.json").read_text())
        for name in (".venv", ".venv-train")
    ]
    assert [(stamp["python"], stamp["encrypted"]) for stamp in stamps] == [
        ("3.10.1", True),
        ("3.11.2", False),
    ]
    capsys.readouterr()
    assert setup.main([]) == 0
    assert capsys.readouterr().out == "setup: .venv is ready: Python 3.10.1, encrypted runs\n"
    assert len(calls()) == 2


def test_torch_is_looked_for_where_its_builds_for_cpus_are(setup: ModuleType, machine: Any) -> None:
    calls = machine(["3.11.2"], pip=f'case "$*" in *{INDEX}*) ;; *) {NO_TORCH} ;; esac')
    assert setup.main(["--train"]) == 0
    assert calls() == [
        f"3.11.2 {PIP} {TRAIN}",
        f"3.11.2 {PIP} --extra-index-url {INDEX} {TRAIN}",
    ]


def test_the_next_interpreter_is_tried_where_torch_has_no_wheel(
    setup: ModuleType, machine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = machine(["3.11.2", "3.12.3"], pip=f"case $version in 3.11.*) {NO_TORCH} ;; esac")
    assert setup.main(["--train"]) == 0
    assert [call.split()[0] for call in calls()] == ["3.11.2", "3.11.2", "3.12.3"]
    assert "not Python 3.11.2 (/3.11.2): pip finds no torch==2.13.0+cpu for it\n" in (
        capsys.readouterr().out
    )
    assert json.loads((tmp_path / ".venv-train/ready.json").read_text())["python"] == "3.12.3"


@pytest.mark.parametrize("versions", [[], ["3.10.1", "3.12.3"]])
def test_without_torch_for_any_interpreter_nothing_is_left(
    setup: ModuleType,
    machine: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    versions: list[str],
) -> None:
    calls = machine(versions, pip=NO_TORCH)
    assert setup.main(["--train"]) == 3
    assert len(calls()) == 2 * len(versions)
    assert capsys.readouterr().err == (
        "setup: error: no CPython 3.10, 3.11 or 3.12 here can use torch==2.13.0+cpu\n" + GET_TORCH
    )
    assert not (tmp_path / ".venv-train").exists()


def test_an_index_out_of_reach_ends_the_search(
    setup: ModuleType, machine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = machine(["3.11.2", "3.12.3"], pip="echo no route to host; exit 1")
    assert setup.main(["--train"]) == 3
    assert len(calls()) == 1
    assert capsys.readouterr().err == (
        "setup: error: pip could not install fhecompile[test,train]. Its last lines:\n"
        "    no route to host\n"
        "  If the package index could not be reached, set PIP_INDEX_URL or PIP_PROXY and call\n"
        "  again; pip keeps what it has downloaded.\n"
    )
    assert not (tmp_path / ".venv-train").exists()


def test_torch_that_does_not_load_is_not_taken(
    setup: ModuleType, machine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(["3.11.2"], check="echo 'AssertionError: built for CUDA' >&2; exit 1")
    assert setup.main(["--train"]) == 3
    reason = "torch does not load: AssertionError: built for CUDA"
    assert f"setup: not Python 3.11.2 (/3.11.2): {reason}\n" in capsys.readouterr().out
    assert not (tmp_path / ".venv-train").exists()


@pytest.mark.parametrize(
    ("version", "folders", "reason"),
    [("None", ["torch"], ""), ("'13.0'", ["torch"], "CUDA"), ("None", ["torch", "nvidia"], "CUDA")],
)
def test_torch_for_cuda_is_noticed(
    setup: ModuleType, tmp_path: Path, version: str, folders: list[str], reason: str
) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
    (tmp_path / "torch/__init__.py").write_text("from torch import version\n")
    (tmp_path / "torch/version.py").write_text(f"cuda = {version}\n")
    done = subprocess.run(
        [sys.executable, "-c", setup.TRAINING.check],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == bool(reason)
    assert done.stderr.strip().endswith("AssertionError: built for CUDA" if reason else "")


def test_an_interrupted_set_up_is_not_finished(
    setup: ModuleType,
    machine: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(["3.11.2"])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(setup, "run", interrupt)
        assert setup.main(["--train"]) == 130
    assert capsys.readouterr().err == "setup: interrupted; .venv-train is not finished\n"
    assert not (tmp_path / ".venv-train").exists()
    assert setup.main(["--train"]) == 0


# -- make and CI -----------------------------------------------------------------------------------


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run in a folder; a make that the tests run under passes nothing on."""
    outer = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        command,
        cwd=folder,
        env={**outer, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def write_script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def run_ci(folder: Path, make: str) -> subprocess.CompletedProcess[str]:
    """Run .ci/run where `make` is this bash script; it finds its last argument in $target."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
    write_script(folder / "bin" / "make", '#!/bin/bash\ntarget="${@: -1}"\n' + make)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return run(folder, "bash", ".ci/run", PATH=path)


def test_tests_that_need_torch_are_found(tmp_path: Path) -> None:
    deep = tmp_path / "tests" / "deep"
    deep.mkdir(parents=True)
    (deep / "test_b.py").write_text('torch = pytest.importorskip("torch", reason="a")\n')
    (deep / "test_c.py").write_text('torch = pytest.importorskip(\n    "torch", reason="a"\n)\n')
    (deep / "test_d.py").write_text('pytest.importorskip("openfhe", reason="no torch")\n')
    (deep / "test_e.py").write_text('pytest.importorskip("torch.nn")\n')
    (deep / "test_f.py").write_text("""text = 'pytest.importorskip("torch")'\n""")
    (deep / "test_g.py").write_text('def test() -> None:\n    pytest.importorskip("torch")\n')
    (deep / "test_h.py").write_text('pytest.importorskip("torchvision")\n')
    (deep / "support.py").write_text('pytest.importorskip("torch")\n')
    shutil.copy(ROOT / "Makefile", tmp_path)
    write_script(tmp_path / ".venv-train" / "bin" / "python", "#!/bin/sh\necho ran $*\n")
    done = run(tmp_path, "make", "--silent", "PYTHON=true", "ARGS=-x", "test-train")
    files = " ".join(f"tests/deep/test_{name}.py" for name in "bceg")
    assert (done.returncode, done.stdout) == (0, f"ran -m pytest {files} -x\n")


def test_no_tests_that_need_torch_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    done = run(tmp_path, "make", "PYTHON=true", "test-train")
    assert done.returncode != 0
    assert done.stderr.startswith("test-train: no tests that need torch\n")


CLOSING = {
    "test": "== 9 passed, 5 skipped in 300.12s (0:05:00) ==",
    "test-train": "== 108 passed in 60.01s ==",
}
LAST_LINES = ["make test: " + CLOSING["test"], "make test-train: " + CLOSING["test-train"]]


@pytest.mark.parametrize("failing", ["", "test", "test-train", "lint check", "test test-train"])
def test_ci_runs_everything_and_fails_with_any(tmp_path: Path, failing: str) -> None:
    lines = "".join(f"{target}) echo '{line}' ;;\n" for target, line in CLOSING.items())
    make = (
        f'echo "$target" >> ran\ncase $target in\n{lines}esac\necho "4 in 2.0s"\n'
        f'[[ " {failing} " != *" $target "* ]] || exit 2\n'
    )
    done = run_ci(tmp_path, make)
    ran = (tmp_path / "ran").read_text().split()
    assert ran == ["setup", "setup-train", "lint", "test", "test-train", "check"]
    said = done.stdout.splitlines()
    if failing:
        assert (done.returncode, said[-2:]) == (1, LAST_LINES)
        assert done.stderr == f"failed: {failing}\n"
    else:
        assert (done.returncode, said[-3:]) == (0, [*LAST_LINES, "all passed"])


def test_ci_without_an_environment_for_training(tmp_path: Path) -> None:
    make = (
        f'echo "$target" >> ran\n[[ $target != test ]] || echo "{CLOSING["test"]}"\n'
        "[[ $target != setup-train ]]\n"
    )
    done = run_ci(tmp_path, make)
    ran = (tmp_path / "ran").read_text().split()
    assert ran == ["setup", "setup-train", "lint", "test", "check"]
    last = [LAST_LINES[0], "make test-train: not run, .venv-train cannot be made (see above)"]
    last.append("all that ran passed")
    assert (done.returncode, done.stdout.splitlines()[-3:]) == (0, last)


def test_ci_says_when_pytest_did_not_finish(tmp_path: Path) -> None:
    done = run_ci(tmp_path, "[[ $target != test ]] || kill -KILL $$\n")
    assert done.returncode == 1
    assert "make test: pytest did not finish\n" in done.stdout
    assert done.stderr.endswith("failed: test\n")
