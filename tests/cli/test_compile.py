"""`fhecompile MODEL`: what it writes, what it prints where, and its exit codes."""

from __future__ import annotations

import importlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fhecompile.errors import InternalError
from fhecompile.plan import Plan
from fhecompile.version import __version__
from tests.cli.conftest import Call
from tests.small import write_model
from tests.support import heed_interrupts

ROOT = Path(__file__).resolve().parents[2]
# Not `import fhecompile.compile`: the package's attribute of that name is the function.
COMPILE = importlib.import_module("fhecompile.compile")
TOY = ("--ring-dimension", "256", "--insecure-toy")
LABELS = (
    "ring dimension",
    "security",
    "depth",
    "primes",
    "digits",
    "evaluation keys",
    "peak memory",
    "plaintext products",
    "key switches",
    "error",
    "evaluate",
    "plan",
)


def test_writes_beside_the_model_and_prints_the_cost(call: Call, model: Path) -> None:
    done = call(model, *TOY)
    target = model.with_suffix(".fheplan")
    assert done.code == 0
    assert Plan.load(target).parameters.ring_dimension == 256
    lines = done.out.splitlines()
    assert lines[0] == str(model)
    assert [line[:20].strip() for line in lines[1 : 1 + len(LABELS)]] == list(LABELS)
    assert lines[-1] == f"written: {target}"
    assert "security            NONE: log QP" in done.out
    (peak,) = (line for line in lines if line.startswith("peak memory"))
    said = "MiB predicted for one image, up to 1.0 GiB more where memory is free"
    assert re.fullmatch(rf"peak memory +\d+\.\d {said}", peak)
    assert f"plan                {target.stat().st_size / 1024:.0f} KiB" in done.out
    assert done.err == (
        "warning: this plan is INSECURE: its ring is a toy, for tests only\n"
        "warning: no calibration data was given: ranges and error are those of uniform noise in "
        "[-1, 1]; give data like the network's inputs with --calibrate data.npz\n"
    )


def test_the_cost_is_printed_before_anything_is_written(
    call: Call, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plan, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    done = call(model, *TOY)
    assert (done.code, done.err.splitlines()[-1]) == (130, "interrupted")
    assert "ring dimension" in done.out and "written" not in done.out
    assert sorted(path.name for path in model.parent.iterdir()) == ["small.onnx"]


def test_secure_and_calibrated_has_no_warnings(call: Call, model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, faces=np.random.default_rng(0).uniform(-1, 1, (8, 1, 4)))
    done = call("compile", model, "-o", tmp_path / "a.fheplan", "--calibrate", f"{data}:faces")
    assert (done.code, done.err) == (0, "")
    plan = Plan.load(tmp_path / "a.fheplan")
    assert plan.program.calibration == "given" and not plan.parameters.insecure
    assert f"128 bits (log QP {plan.parameters.log_qp} of at most " in done.out


def test_options_before_the_model(call: Call, model: Path) -> None:
    assert call("-q", "--input-shape", "x=1x4", *TOY, model).code == 0


def test_json_on_stdout_text_on_stderr(call: Call, model: Path) -> None:
    done = call(model, *TOY, "--json", "--explain")
    found = json.loads(done.out)
    assert found["output"] == str(model.with_suffix(".fheplan"))
    assert found["plan_bytes"] == model.with_suffix(".fheplan").stat().st_size
    assert len(found["warnings"]) == 2
    assert found["passes"][0].keys() == {"name", "seconds", "modified", "remarks"}
    assert "select_parameters" in done.err and "ring dimension" in done.err


def test_quiet_json_leaves_only_warnings_on_stderr(call: Call, model: Path) -> None:
    done = call(model, *TOY, "--json", "-q")
    assert json.loads(done.out)["ring_dimension"] == 256
    assert all(line.startswith("warning: ") for line in done.err.splitlines())


def test_explain_shows_every_pass_with_its_remarks(call: Call, model: Path) -> None:
    done = call(model, *TOY, "--explain")
    row = next(line for line in done.out.splitlines() if "fuse_polynomials" in line)
    assert row.split(maxsplit=3)[2:] == ["yes", "1 polynomials fused"]


def test_keys_can_be_limited(call: Call, model: Path) -> None:
    free = json.loads(call(model, *TOY, "--json").out)
    fewer = json.loads(call(model, *TOY, "--json", "--max-keys", free["rotation_keys"] - 1).out)
    assert fewer["rotation_keys"] == free["rotation_keys"] - 1
    seconds = [made["prediction"]["evaluate_seconds"] for made in (free, fewer)]
    assert seconds == sorted(seconds)


def test_memory_is_a_wish(call: Call, model: Path) -> None:
    done = call(model, *TOY, "--max-memory", "100M")
    assert done.code == 0
    assert (
        "more than the 100.0 MiB of --max-memory; fewer rotation keys do not save enough"
        in done.err
    )
    assert "--max-memory" not in call(model, *TOY, "--max-memory", "2G").err


def test_dynamic_shape_can_be_bound(call: Call, tmp_path: Path) -> None:
    path = write_model(tmp_path / "dynamic.onnx", ("n", 4))
    assert call(path, *TOY, "--input-shape", "x=1x4").code == 0


def test_no_colour_and_no_spinner_without_a_terminal(model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fhecompile", str(model), *TOY],
        capture_output=True,
        text=True,
        env={**os.environ, "FORCE_COLOR": "", "NO_COLOR": "1"},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr and "\r" not in done.stdout + done.stderr


def test_spinner_on_a_terminal(model: Path) -> None:
    controller, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "fhecompile", str(model), *TOY],
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm"},
        cwd=ROOT,
    )
    shown = os.read(controller, 1 << 16).decode()
    os.close(controller)
    os.close(terminal)
    assert done.returncode == 0 and "compiling" in shown


@pytest.mark.parametrize("error", [InternalError("levels disagree"), RuntimeError("what\nnow")])
def test_a_bug_of_ours(
    call: Call, model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(COMPILE, "compile_model", fail)
    done = call(model, *TOY)
    assert done.code == 70
    assert done.err == (
        f"internal error: {type(error).__name__}: {error}\n"
        "  this is a bug of fhecompile: please report it with the command, the version "
        f"({__version__}) and the output of -v\n"
    )
    assert "Traceback" in call(model, *TOY, "-v").err
    assert not model.with_suffix(".fheplan").exists()


def test_out_of_memory(call: Call, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(COMPILE, "compile_model", fail)
    done = call(model, *TOY)
    assert (done.code, done.err) == (3, "error: not enough memory [not-enough-memory]\n")


SLOW = """
import importlib, sys, time
from fhecompile.cli import main
def slow(*_):
    print("started", file=sys.stderr, flush=True)
    time.sleep(60)
importlib.import_module("fhecompile.compile").compile_model = slow
sys.exit(main([sys.argv[1]]))
"""


def test_interrupt(model: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(model)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=heed_interrupts,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "started\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err.strip()) == (130, "interrupted")
    assert not model.with_suffix(".fheplan").exists()


def test_match_and_threshold(call: Call, model: Path, tmp_path: Path) -> None:
    done = call(model, *TOY, "--match", "distance", "--threshold", "0.25", "-o", tmp_path / "p")
    assert done.code == 0, done.err
    plan = Plan.load(tmp_path / "p").program
    assert [info.name for info in plan.outputs] == ["score"]
    assert all(info.shape[0] == 2 for info in plan.inputs)
    done = call(model, *TOY, "--threshold", "0.25")
    assert done.code == 2
    assert done.err == (
        "error: threshold is given without pairs to match, there is nothing to subtract it from "
        "[option-value]\n"
    )
