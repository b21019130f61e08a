"""`python -m models.demo`: what it prints, encrypted and where OpenFHE is missing."""

from __future__ import annotations

import sys

import pytest

from models.demo import main


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def check_results(lines: list[str], images: int) -> None:
    results = [line for line in lines if line.startswith("label ")]
    assert len(results) == images
    for line in results:
        label = line.split(":")[0].split()[1]
        assert line.startswith(f"label {label}: class {label}, ONNX Runtime's class {label}, max ")
    assert lines[-1] == "every class is ONNX Runtime's"
    for phase in ("compile", "keygen", "encrypt", "evaluate", "decrypt"):
        assert any(line.startswith(phase) and " s" in line for line in lines)


@pytest.mark.full_size
def test_encrypted(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openfhe", exc_type=ImportError)
    assert main(["--images", "1"]) == 0
    lines = lines_of(capsys)
    assert "  security            128 bits (log QP " in "\n".join(lines)
    assert any(line.startswith("encrypt: 1 image on ") for line in lines)
    check_results(lines, 1)


def test_without_openfhe_it_says_so_and_simulates(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openfhe", None)
    assert main(["--images", "2"]) == 0
    lines = lines_of(capsys)
    at = next(k for k, line in enumerate(lines) if line.startswith("no encryption: OpenFHE "))
    assert lines[at + 1].startswith("  hint: ") and lines[at + 2] == "simulating instead"
    assert lines[at + 3].startswith("simulate: 2 images on ")
    check_results(lines, 2)


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--images", "0"])
    assert leaving.value.code == 2
    assert "--images is to be 1 to 360" in capsys.readouterr().err
