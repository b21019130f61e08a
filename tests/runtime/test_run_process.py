"""The process of `python -m runtime.run`: Ctrl-C, terminals, tuning; its name, the function's."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.tuning import GUARD, SETTINGS, tune_process
from tests.runtime.conftest import Files
from tests.support import heed_interrupts

ROOT = Path(__file__).resolve().parents[2]
CLEAR = ("--mode", "clear")

SLOW = """
import sys, time
import runtime.backends.clear as clear
from runtime.run import main
def slow(*_):
    print("started", file=sys.stderr, flush=True)
    time.sleep(1)
    return None
clear.ClearBackend.execute = slow
sys.exit(main(sys.argv[1:]))
"""


def test_interrupt(made: Files) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(made.plan), "--input", str(made.inputs), *CLEAR],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=heed_interrupts,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("warning: ")
    assert process.stderr.readline() == "started\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted" and "Traceback" not in err


def test_progress_bar_on_a_terminal(made: Files) -> None:
    controller, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "runtime.run", str(made.plan), "--input", str(made.inputs), *CLEAR],
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        cwd=ROOT,
    )
    shown = os.read(controller, 1 << 16).decode()
    os.close(controller)
    os.close(terminal)
    assert done.returncode == 0
    assert "\rthis" not in shown and "evaluating [" in shown and shown.endswith("\r\x1b[K")


BOTH_ORDERS = {
    "function first": "import runtime\nf = runtime.run\nimport runtime.run",
    "module first": "import runtime.run\nf = runtime.run",
    "from the module": "from runtime.run import main\nimport runtime\nf = runtime.run",
    "from the package": "from runtime import run as f\nimport runtime.run",
}


@pytest.mark.parametrize("order", BOTH_ORDERS)
def test_the_module_is_the_function(made: Files, order: str) -> None:
    code = f"""
{BOTH_ORDERS[order]}
import numpy as np
x = np.load({str(made.inputs)!r})["x"]
assert runtime.run.__name__ in ("run", "runtime.run")
for run in (f, runtime.run):
    for given in (x, {{"x": x}}):
        y = run({str(made.plan)!r}, given, mode="clear", threads=1)
        assert y["y"].shape == (5, 2)
from runtime.run import main
assert callable(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_running_the_module_has_no_warning() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "runtime.run", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m runtime.run ")


def test_tuning_starts_the_program_once_more(tmp_path: Path) -> None:
    script = tmp_path / "show.py"
    script.write_text(
        "import json, os, sys\n"
        "from runtime.tuning import tune_process\n"
        "print('start', flush=True)\n"
        "tune_process()\n"
        "print(json.dumps([dict(os.environ), sys.argv]))\n"
    )
    environment = {"PATH": "/usr/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "5"}
    environment["FHECOMPILE_COSTS"] = "default"
    done = subprocess.run(
        [sys.executable, str(script), "a b", "--c"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    *starts, last = done.stdout.splitlines()
    found, arguments = json.loads(last)
    assert starts == ["start", "start"]
    assert arguments == [str(script), "a b", "--c"]
    assert found.items() >= {**SETTINGS, "OMP_NUM_THREADS": "5", GUARD: "1"}.items()


def test_a_tuned_process_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        pytest.fail("started again")

    monkeypatch.setenv(GUARD, "1")
    monkeypatch.setattr(os, "execve", fail)
    tune_process()
