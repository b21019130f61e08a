"""The small network as an ONNX file and as a plan file, and a way to call the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from fhecompile.cli import main
from tests.small import compile_small, write_model


class Called(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Call = Callable[..., Called]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """call(*arguments) runs the command line in this process."""

    def run(*arguments: str | Path) -> Called:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Called(code, *capsys.readouterr())

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The small network's ONNX file."""
    return write_model(tmp_path / "small.onnx")


@pytest.fixture(scope="session")
def plan_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The small network's plan file."""
    return compile_small(tmp_path_factory.mktemp("plan")).encode()


@pytest.fixture
def plan(tmp_path: Path, plan_bytes: bytes) -> Path:
    """The small network's plan as a file of its own."""
    path = tmp_path / "made.fheplan"
    path.write_bytes(plan_bytes)
    return path
