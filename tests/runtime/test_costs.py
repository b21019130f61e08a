"""The file of measured costs: round trip, what is ignored and with which words, who uses it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fhecompile.ckks.cost_table import BUILT_IN, MILLISECONDS, CostTable
from runtime.costs import (
    VARIABLE,
    CostsWarning,
    MachineCosts,
    costs_path,
    evaluation_threads,
    find_costs,
    machine_table,
    user_path,
)
from runtime.processor import processor_name, usable_cores
from runtime.session import InferenceSession
from tests.runtime.conftest import Files
from tests.support import convolution_plan

ROOT = Path(__file__).resolve().parents[2]
TABLE = CostTable({step: 3 * t for step, t in MILLISECONDS.items()}, measured=True)
COSTS = MachineCosts(TABLE, 2, 3, 0.5, 1 << 16, versions={"openfhe": "1"})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of costs measured on this machine, which FHECOMPILE_COSTS names."""
    path = tmp_path / "costs.json"
    path.write_bytes(COSTS.encode())
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def ignored(path: Path) -> str:
    """The reason why the file is ignored; checks the words around it."""
    costs, text = find_costs()
    before = f"{path}: ignored, the built-in costs are used: "
    after = (
        " [costs-ignored]\n  hint: make a new one with: python -m runtime.calibrate "
        f"--output {path}"
    )
    assert costs is None and text.startswith(before) and text.endswith(after), text
    return text[len(before) : -len(after)]


def test_round_trip(file: Path) -> None:
    assert find_costs() == (COSTS, "")
    assert COSTS.encode() == file.read_bytes()
    assert list(json.loads(file.read_text())) == sorted(json.loads(file.read_text()))


def test_machine() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert processor_name()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "fhecompile costs 0"},
        {"milliseconds_per_prime": {"raise": 1.0}},
        {"milliseconds_per_prime": {**MILLISECONDS, "key": -1.0}},
        {"milliseconds_per_prime": {**MILLISECONDS, "key": "x"}},
        {"milliseconds_per_prime": 4},
        {"threads": 0},
        {"openmp_threads": "2"},
        {"machine": []},
        {"versions": None},
    ],
)
def test_wrong_content(file: Path, change: dict[str, object]) -> None:
    file.write_text(json.dumps({**json.loads(COSTS.encode()), **change}))
    assert ignored(file) == "it is no file of measured costs"


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\x00", b"[" * 100_000, b"{}"])
def test_no_such_content(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    assert ignored(file) == "it is no file of measured costs"


def test_another_machine(file: Path) -> None:
    file.write_bytes(dataclasses.replace(COSTS, processor="Z80", cores=64).encode())
    assert ignored(file) == (
        f"it was measured with 64 cores of Z80, this process has {usable_cores()} of "
        f"{processor_name()}"
    )


def test_a_named_file_that_is_not_there(file: Path) -> None:
    file.unlink()
    assert ignored(file) == "there is no such file"
    file.mkdir()
    assert ignored(file) == "it cannot be read (Is a directory)"


def test_places(tmp_path: Path) -> None:
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert costs_path({**home, VARIABLE: "default"}) is None
    assert costs_path({**home, VARIABLE: "a/b.json"}) == Path("a/b.json")
    assert costs_path(home) == tmp_path / "fhecompile" / "costs.json"
    relative = user_path({"XDG_CONFIG_HOME": "relative"})
    assert relative == user_path({}) == Path.home() / ".config" / "fhecompile" / "costs.json"


def test_nothing_measured_is_no_warning(tmp_path: Path) -> None:
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert find_costs(home) == (None, "")
    path = tmp_path / "fhecompile" / "costs.json"
    path.parent.mkdir()
    path.write_bytes(COSTS.encode())
    assert find_costs(home) == (COSTS, "")
    path.write_text("{}")
    assert find_costs(home)[1].endswith("with: python -m runtime.calibrate")


# ---------------------------------------------------------------------------- who uses it


def test_threads_are_chosen_only_with_their_openmp_threads() -> None:
    assert evaluation_threads(COSTS, {"OMP_NUM_THREADS": "3"}) == 2
    other = dataclasses.replace(COSTS, threads=usable_cores() + 1)
    assert evaluation_threads(other, {"OMP_NUM_THREADS": "1"}) == usable_cores()
    assert evaluation_threads(other, {}) == usable_cores()
    assert evaluation_threads(None, {"OMP_NUM_THREADS": "3"}) == usable_cores()


def test_table_of_predictions(file: Path) -> None:
    warned: list[str] = []
    assert machine_table(warned.append) == TABLE and not warned
    file.write_text("{}")
    assert machine_table(warned.append) is BUILT_IN and warned == [find_costs()[1]]


def test_progress_is_judged_by_the_measured_costs(file: Path) -> None:
    with InferenceSession(convolution_plan(), "clear") as session:
        tripled = session._executor.weights
    file.write_text("{}")
    with pytest.warns(CostsWarning, match="ignored, the built-in costs are used"):
        session = InferenceSession(convolution_plan(), "clear")
    session.close()
    assert sum(tripled) == pytest.approx(3 * sum(session._executor.weights))


SHOW = """
import importlib, os, sys, types
package = types.ModuleType("runtime")  # without the imports of the real package
package.__path__ = [os.path.join(os.getcwd(), "runtime")]
sys.modules["runtime"] = package
from runtime.tuning import tune_process
tune_process()
assert not {"numpy", "msgspec", "openfhe"}.intersection(sys.modules)
print(os.environ["OMP_NUM_THREADS"])
"""


@pytest.mark.parametrize(("given", "threads"), [({}, "3"), ({"OMP_NUM_THREADS": "7"}, "7")])
def test_tuning_reads_the_choice_without_numpy(
    file: Path, given: dict[str, str], threads: str
) -> None:
    environment = {"PATH": "/usr/bin", "PYTHONPATH": str(ROOT), VARIABLE: str(file), **given}
    done = subprocess.run(
        [sys.executable, "-c", SHOW], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert (done.stdout, done.stderr) == (f"{threads}\n", "")


def test_an_encrypted_run_takes_the_choice(made: Files, file: Path) -> None:
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    more = dataclasses.replace(COSTS, threads=usable_cores() + 1)
    file.write_bytes(more.encode())
    command = (sys.executable, "-m", "runtime.run", str(made.plan), "--input", str(made.inputs))
    done = subprocess.run(
        [*command, "--samples", "1", "--insecure-toy", "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin", "PYTHONPATH": str(ROOT), VARIABLE: str(file)},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["threads"] == more.threads
    assert "ignored" not in done.stderr
    file.write_text("")
    done = subprocess.run(
        [*command, "--mode", "clear"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin", "PYTHONPATH": str(ROOT), VARIABLE: str(file)},
    )
    assert done.returncode == 0 and done.stderr.count("[costs-ignored]") == 1
