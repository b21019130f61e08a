"""`python -m runtime.calibrate`: the whole command on a toy ring, its choices and its errors."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fhecompile.ckks.cost_table import MILLISECONDS, CostTable
from fhecompile.errors import EXIT_BAD_INPUT, EXIT_ENVIRONMENT
from runtime import calibrate
from runtime.calibrate import choose_combination, combinations, main, report_lines
from runtime.costs import VARIABLE, MachineCosts, find_costs
from runtime.processor import usable_cores
from tests.runtime.test_fit import KNOWN, synthetic

RING = 1 << 11  # a toy, for tests


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Nothing is measured: times are made of known costs; the combinations that were asked for."""
    asked: list[tuple[int, int]] = []

    def answer(_: int, combination: tuple[int, int], is_first: bool) -> dict[str, Any]:
        asked.append(combination)
        found: dict[str, Any] = {"throughput": float(len(asked))}
        if is_first:
            found["measurements"] = msgspec.to_builtins(synthetic(KNOWN))
            found["reference_rotation"] = 0.25
        return found

    monkeypatch.setattr(calibrate, "_start_worker", answer)
    monkeypatch.setattr(calibrate, "load_openfhe", lambda: None)
    monkeypatch.setattr(calibrate, "usable_cores", lambda: 4)
    monkeypatch.setattr(calibrate, "available_bytes", lambda: None)
    return asked


def test_the_whole_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    path = tmp_path / "costs.json"
    code = main(["--ring-dimension", str(RING), "--output", str(path)])
    out, err = capfd.readouterr()
    assert code == 0
    assert err.startswith(
        "warning: measured at ring dimension 2048: steps on rings of 65536 are slower than these "
        "costs say\n"
    )
    costs, ignored = find_costs({VARIABLE: str(path)})
    assert costs is not None and not ignored
    assert (costs.ring_dimension, costs.cores) == (RING, usable_cores())
    assert costs.versions.keys() == {"fhecompile", "openfhe", "python"}
    # Far from the table of another machine and ring, but no step of work is free.
    work = ("raise", "lower", "encode", "rescale")
    assert all(0.05 < costs.table.milliseconds[s] / MILLISECONDS[s] < 50 for s in work)
    assert 0 < costs.reference_rotation < 1
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + len(MILLISECONDS)]] == list(MILLISECONDS)
    assert lines[-2:] == [f"written: {path}", f"predictions use it with {VARIABLE}={path}"]
    assert os.listdir(tmp_path) == ["costs.json"]


def test_what_is_stored(
    no_workers: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "a" / "b"))
    assert main([]) == 0
    path = tmp_path / "a" / "b" / "fhecompile" / "costs.json"
    first = path.read_bytes()
    found = json.loads(first)
    assert no_workers == [(4, 1), (2, 2), (1, 4)]
    assert (found["threads"], found["openmp_threads"]) == (1, 4)
    assert found["milliseconds_per_prime"] == pytest.approx(dict(KNOWN.milliseconds))
    no_workers.clear()
    assert main([]) == 0 and path.read_bytes() == first


@pytest.mark.parametrize(("noise", "is_rough"), [(0.1, False), (0.9, True)])
def test_times_that_do_not_fit(
    no_workers: list[tuple[int, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    noise: float,
    is_rough: bool,
) -> None:
    answer = {
        "throughput": 1.0,
        "measurements": msgspec.to_builtins(synthetic(KNOWN, noise)),
        "reference_rotation": 0.25,
    }
    monkeypatch.setattr(calibrate, "_start_worker", lambda *_, **__: dict(answer))
    assert main(["--output", str(tmp_path / "costs.json")]) == 0
    warning = (
        "warning: these costs are rough, the times do not fit together: other programs may have "
        "run meanwhile\n  hint: measure again when they have ended\n"
    )
    assert capsys.readouterr().err == (warning if is_rough else "")


@pytest.mark.parametrize(
    ("cores", "tried"),
    [
        (1, [(1, 1)]),
        (2, [(2, 1), (1, 2)]),
        (4, [(4, 1), (2, 2), (1, 4)]),
        (8, [(8, 1), (4, 2), (1, 8)]),
        (64, [(64, 1), (8, 8), (1, 64)]),
    ],
)
def test_combinations(cores: int, tried: list[tuple[int, int]]) -> None:
    assert combinations(cores) == tried


def test_openmp_threads_must_be_worth_it() -> None:
    assert choose_combination({(4, 1): 1.0, (2, 2): 1.04, (1, 4): 0.5}) == (4, 1)
    assert choose_combination({(4, 1): 1.0, (2, 2): 1.2, (1, 4): 1.1}) == (2, 2)


def test_report() -> None:
    table = CostTable(dict.fromkeys(MILLISECONDS, 1.5), measured=True)
    lines = report_lines(MachineCosts(table, 2, 1, 0.25, 1 << 16), {(2, 1): 3.0, (1, 2): 2.0}, 0.04)
    assert lines[:2] == [
        "step        default  measured   thread-milliseconds per prime, N = 2^16",
        "raise          2.00      1.50",
    ]
    assert lines[-4:] == [
        "2 x 1 OpenMP threads: 3.00 mixes per second, chosen",
        "1 x 2 OpenMP threads: 2.00 mixes per second",
        "reference rotation: 0.250 s",
        "an operation's time differs by 4 % from these costs (median)",
    ]


# ---------------------------------------------------------------------------- errors


@pytest.mark.parametrize("ring", ["1000", "1024", "262144", "-4"])
def test_wrong_ring_dimension(ring: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ring-dimension", ring]) == EXIT_BAD_INPUT
    assert capsys.readouterr().err == (
        f"error: --ring-dimension: {ring} is no ring dimension to measure at [ring-dimension]\n"
        "  hint: give a power of two from 2048 to 131072\n"
    )


def test_a_place_that_cannot_be_written(
    no_workers: list[tuple[int, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none" / "costs.json"
    assert main(["--output", str(path)]) == EXIT_BAD_INPUT
    assert capsys.readouterr().err == (
        f"error: {path}: cannot write there (there is no folder {path.parent}) [cannot-write]\n"
        "  hint: choose another place with --output\n"
    )
    assert not no_workers


def test_a_file_in_place_of_the_folder(
    no_workers: list[tuple[int, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tmp_path.joinpath("fhecompile").write_text("")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main([]) == EXIT_BAD_INPUT
    assert "[cannot-write]\n  hint: choose another place with --output" in capsys.readouterr().err
    assert not no_workers


def test_no_home(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(calibrate, "user_path", lambda: None)
    assert main([]) == EXIT_BAD_INPUT
    assert capsys.readouterr().err == (
        "error: there is no home directory to keep the costs in [no-home]\n"
        "  hint: name a file with --output, and later with FHECOMPILE_COSTS\n"
    )


def test_not_enough_memory(
    no_workers: list[tuple[int, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(calibrate, "available_bytes", lambda: 1 << 30)
    assert main(["--output", str(tmp_path / "costs.json")]) == EXIT_ENVIRONMENT
    assert capsys.readouterr().err == (
        "error: measuring at ring dimension 65536 on 4 cores needs about 1.2 GiB of memory, "
        "1.0 GiB are free [not-enough-memory]\n"
        "  hint: free some memory, or give a smaller --ring-dimension\n"
    )


def test_a_worker_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibrate, "load_openfhe", lambda: None)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    path = tmp_path / "costs.json"
    assert main(["--ring-dimension", str(RING), "--output", str(path)]) == EXIT_ENVIRONMENT
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"error: the process that measures {usable_cores()} x 1 threads failed (exit code 1) "
        "[calibration-failed]",
        "  hint: its own message is above; with too little memory, give a smaller --ring-dimension",
    ]
    assert not path.exists()
