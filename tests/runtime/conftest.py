"""The small network's plan, model and inputs as files, and a way to call the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from runtime.run import main
from tests.small import compile_small


class Called(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Called]


class Files(NamedTuple):
    plan: Path
    model: Path
    inputs: Path
    x: np.ndarray


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("run")
    compile_small(folder).save(folder / "small.fheplan")
    x = np.random.default_rng(2).uniform(-1, 1, (5, 1, 4)).astype(np.float32)
    np.savez(folder / "x.npz", x=x, label=np.array(["a"]))
    return Files(folder / "small.fheplan", folder / "small.onnx", folder / "x.npz", x)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: str | Path) -> Called:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as leaving:  # argparse's own errors
            code = int(leaving.code or 0)
        return Called(code, *capsys.readouterr())

    return run
