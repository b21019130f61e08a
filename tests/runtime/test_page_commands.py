"""The page's command line: what it needs, and what it says when that is not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fhecompile.errors import EXIT_BAD_INPUT, EXIT_ENVIRONMENT
from runtime.__main__ import main
from tests.page import face_plan
from tests.service import ROOT
from tests.support import convolution_plan

pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

INSECURE = "warning: this plan is INSECURE: its ring is a toy, for tests only"


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    face_plan().save(tmp_path / "face.fheplan")
    (tmp_path / "token").write_text("t\n")
    command = ["page", str(tmp_path / "face.fheplan"), "--server", "http://127.0.0.1:9"]
    command += ["--token-file", str(tmp_path / "token"), "--keys", str(tmp_path / "keys")]
    return [*command, "--insecure-toy", "--quiet"]


def said(capsys: pytest.CaptureFixture[str], command: list[str], *more: str) -> list[str]:
    assert main([*command, *more]) == EXIT_BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == ""
    first, *lines = printed.err.splitlines()
    assert first == INSECURE
    return lines


def test_a_plan_that_takes_no_face(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convolution_plan().save(tmp_path / "face.fheplan")
    assert said(capsys, command) == [
        "error: the plan takes 1 x 2 x 8 x 8, the page has one square colour image to give "
        "[not-a-face-plan]",
        "  hint: compile a network that takes one input of 1 x 3 x S x S",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot read the token (No such file or directory)"),
        (b"\xff\xfe", "cannot read the token (it is no text)"),
        (b"\n", "there is no token in it"),
        (b"two words\n", "there is no token in it"),
    ],
)
def test_token_files(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    reason: str,
) -> None:
    path = tmp_path / "token"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert said(capsys, command) == [
        f"error: {path}: {reason} [token-file]",
        "  hint: put there what `python -m runtime add-client` printed",
    ]


def test_keys_that_are_not_there(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, command) == [
        f"error: {tmp_path / 'keys/evaluation.keys'}: cannot read it (No such file or directory) "
        "[no-such-file]",
        "  hint: make keys with: python -m runtime keygen",
    ]


def test_other_addresses_are_warned_of(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys, command, "--host", "0.0.0.0")
    assert lines[0] == (
        "warning: photos pass the network for all to read; listen on 127.0.0.1 instead"
    )
    assert "[no-such-file]" in lines[1]


@pytest.mark.parametrize("threshold", ["1.01", "-2", "nan"])
def test_thresholds(command: list[str], capsys: pytest.CaptureFixture[str], threshold: str) -> None:
    with pytest.raises(SystemExit):
        main([*command, "--threshold", threshold])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("argument --threshold: is to be a cosine, between -1 and 1")


@pytest.mark.parametrize("library", ["uvicorn", "PIL"])
def test_libraries_that_are_not_there(command: list[str], tmp_path: Path, library: str) -> None:
    code = f"""
import sys
sys.modules["{library}"] = None
from runtime.__main__ import main
sys.exit(main({command}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == (
        f"error: the page needs {library}, which is not installed [server-missing]\n"
        "  hint: pip install fhecompile[page]\n"
    )
    assert done.returncode == EXIT_ENVIRONMENT
