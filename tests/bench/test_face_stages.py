"""The stages of the face-verification benchmark, as programs that share only files."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fhecompile.frontend.reference import run_reference
from models.faces.synthetic import draw_people
from runtime.face_alignment import prepare
from runtime.tuning import GUARD
from tests.support import Network

pytest.importorskip("openfhe", reason="OpenFHE is not installed")

Refusal = Callable[..., str]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "bench" / "face_stages"
TOY_WARNING = "warning: this plan is INSECURE: its ring is a toy, for tests only\n"
SIDE = 8
TOY = ("--insecure-toy", "--ring-dimension", "1024")
PAIRS = [(0, 1, 1), (2, 3, 1), (0, 2, 0), (3, 1, 0)]  # images, and whether they are of one person
STAGES = (
    "client_key_generation",
    "server_preprocess_model",
    "client_preprocess_input",
    "client_encode_encrypt_input",
    "server_encrypted_compute",
    "client_decrypt_decode",
    "client_postprocess",
)
IMAGES = draw_people(seed=7, people=2, images=2, size=16)


def embedding_network() -> bytes:
    """A face of 3 x 8 x 8 to 4 numbers whose length varies by a factor of 2."""
    random = np.random.default_rng(1)
    net = Network(face=(1, 3, SIDE, SIDE))
    x = net.op("Conv", "face", random.normal(size=(4, 3, 3, 3)) / 5, strides=[2, 2], pads=[1] * 4)
    x = net.op("Flatten", net.op("Mul", x, x))
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    net.op("Gemm", x, random.normal(size=(64, 4)) / 8, 0.2 * signs, name="embedding")
    return net.model("embedding")


def expected_scores(model: Path) -> NDArray[np.float64]:
    """Cosines by ONNX Runtime, of pixels prepared as the client does."""
    vectors = []
    for image in IMAGES:
        feeds = {"face": prepare(image, SIDE)[None]}
        (vector,) = run_reference(model, feeds).values()
        vectors.append(np.asarray(vector, np.float64).ravel())
    units = [v / np.linalg.norm(v) for v in vectors]
    return np.array([units[a] @ units[b] for a, b, _ in PAIRS])


def call(folder: Path, stage: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    path = FOLDER / f"{stage}.py"
    more = [*arguments, *(TOY if stage in STAGES[:2] else TOY[:1])]
    return subprocess.run(
        [sys.executable, str(path), *map(str, more)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def succeed(folder: Path, stage: str, *arguments: str | Path) -> None:
    done = call(folder, stage, *arguments)
    assert done.returncode == 0, f"{stage}: {done.stderr}"
    assert (done.stdout, done.stderr) == ("", "" if stage == STAGES[-1] else TOY_WARNING)


@pytest.fixture
def refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """refusal(stage, *arguments): the one error that a stage ends with, run in this process."""

    def run(stage: str, *arguments: str) -> str:
        path = FOLDER / f"{stage}.py"
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(FOLDER)
        monkeypatch.setenv(GUARD, "1")  # it must not replace this process
        monkeypatch.setattr(sys, "argv", [str(path), *arguments, "--insecure-toy"])
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(path), run_name="__main__")
        assert leaving.value.code == 2
        warning, _, text = capsys.readouterr().err.rstrip("\n").partition("error: ")
        assert warning in ("", TOY_WARNING)
        return text

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all files, after every stage in the suite's order.

    Beside it are the images and the list of pairs. While the server works, nothing of the client's
    is there.
    """
    folder = tmp_path_factory.mktemp("suite")
    io = folder / "io"
    io.mkdir()
    (io / "model.onnx").write_bytes(embedding_network())
    calibration = draw_people(seed=8, people=12, images=2, size=16)
    np.savez(io / "calibration.npz", face=np.stack([prepare(x, SIDE) for x in calibration]))
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(folder / f"{number}.png")
    lines = [f"{a}.png {b}.png {label}\n" for a, b, label in PAIRS]
    (folder / "pairs.txt").write_text("".join(lines), encoding="utf-8")
    client, away = io / "small" / "client", folder / "away"
    for stage in STAGES:
        server = stage.startswith("server")
        if server:
            client.rename(away)
        size = () if stage == "server_preprocess_model" else ("1",)  # as the suite calls them
        succeed(
            folder, stage, *size, *(("--pairs", "pairs.txt") if "preprocess_i" in stage else ())
        )
        if server:
            assert not client.exists()
            away.rename(client)
    return io


def test_scores_are_those_of_the_clear_pipeline(finished: Path) -> None:
    text = (finished / "small/encrypted_model_predictions.txt").read_text(encoding="utf-8")
    assert text.endswith("\n")
    scores = [float(line) for line in text.splitlines()]
    expected = expected_scores(finished / "model.onnx")
    assert np.ptp(expected) > 0.1  # or a constant would do
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-2)


def test_what_is_where(finished: Path) -> None:
    run = finished / "small"
    assert {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()} == {
        "client/keys/secret.key",
        "client/inputs.npz",
        "client/scores.npz",
        "public_keys/public.key",
        "public_keys/evaluation.keys",
        "ciphertexts_upload/inputs.fhe",
        "ciphertexts_download/outputs.fhe",
        "server_reported.json",
        "encrypted_model_predictions.txt",
    }
    assert [p.name for p in (finished / "server_data").iterdir()] == ["model.fheplan"]
    assert (run / "client").stat().st_mode & 0o077 == 0
    (seconds,) = json.loads((run / "server_reported.json").read_text()).items()
    assert seconds[0] == "Encrypted computation" and seconds[1] > 0


def test_the_server_compiles_the_plan_that_the_client_has(finished: Path, tmp_path: Path) -> None:
    """Else keys that are made first would not fit."""
    shutil.copytree(finished, tmp_path / "io", ignore=shutil.ignore_patterns("small"))
    plan = tmp_path / "io/server_data/model.fheplan"
    (before, _) = plan.read_bytes(), plan.unlink()
    succeed(tmp_path, "server_preprocess_model")
    assert plan.read_bytes() == before


@pytest.mark.parametrize(
    ("stage", "missing", "text"),
    [
        (
            "client_key_generation",
            "small/client/keys/none",
            "io/small/client/keys: there are keys already, and they are not overwritten "
            "[keys-exist]\n  hint: remove the folder if they are no longer needed, or choose "
            "another with --io",
        ),
        (
            "client_preprocess_input",
            "server_data/model.fheplan",
            "io/server_data/model.fheplan: there is no plan yet [stage-order]\n"
            "  hint: run server_preprocess_model first",
        ),
        (
            "client_encode_encrypt_input",
            "small/public_keys/public.key",
            "io/small/public_keys/public.key: there is no public key yet [stage-order]\n"
            "  hint: run client_key_generation first",
        ),
        (
            "client_encode_encrypt_input",
            "small/client/inputs.npz",
            "io/small/client/inputs.npz: there is no prepared input yet [stage-order]\n"
            "  hint: run client_preprocess_input first",
        ),
        (
            "server_encrypted_compute",
            "small/public_keys/evaluation.keys",
            "io/small/public_keys/evaluation.keys: there is no evaluation key yet [stage-order]\n"
            "  hint: run client_key_generation first",
        ),
        (
            "server_encrypted_compute",
            "small/ciphertexts_upload/inputs.fhe",
            "io/small/ciphertexts_upload/inputs.fhe: there is no encrypted input yet "
            "[stage-order]\n  hint: run client_encode_encrypt_input first",
        ),
        (
            "client_decrypt_decode",
            "small/client/keys/secret.key",
            "io/small/client/keys/secret.key: there is no secret key yet [stage-order]\n"
            "  hint: run client_key_generation first",
        ),
        (
            "client_decrypt_decode",
            "small/ciphertexts_download/outputs.fhe",
            "io/small/ciphertexts_download/outputs.fhe: there is no encrypted output yet "
            "[stage-order]\n  hint: run server_encrypted_compute first",
        ),
        (
            "client_postprocess",
            "small/client/scores.npz",
            "io/small/client/scores.npz: there is no score yet [stage-order]\n"
            "  hint: run client_decrypt_decode first",
        ),
    ],
)
def test_stages_out_of_order(
    finished: Path, tmp_path: Path, refusal: Refusal, stage: str, missing: str, text: str
) -> None:
    shutil.copytree(finished, tmp_path / "io")
    (tmp_path / "io" / missing).unlink(missing_ok=True)
    assert refusal(stage, "1") == text


def test_without_a_model(tmp_path: Path, refusal: Refusal) -> None:
    for stage in ("client_key_generation", "server_preprocess_model"):
        assert refusal(stage) == (
            "io/model.onnx: there is no such file [no-such-file]\n"
            "  hint: give the path of an ONNX model"
        )
    assert not list(tmp_path.iterdir())


def test_pairs_of_the_suite(finished: Path, tmp_path: Path) -> None:
    """The suite's own file, at its own place, gives what the list gives; images are cut."""
    h5py = pytest.importorskip("h5py")
    shutil.copytree(finished / "server_data", tmp_path / "io/server_data")
    folder = tmp_path / "datasets/small/intermediate"
    folder.mkdir(parents=True)
    encoded = [(finished.parent / f"{n}.png").read_bytes() for n in range(len(IMAGES))]
    with h5py.File(folder / "test_pairs.h5", "w") as file:
        for side in range(2):
            images = file.create_dataset(
                f"image{side}", len(PAIRS), dtype=h5py.vlen_dtype(np.uint8)
            )
            for number, pair in enumerate(PAIRS):
                images[number] = np.frombuffer(encoded[pair[side]], np.uint8)
    succeed(tmp_path, "client_preprocess_input", "1")
    with (
        np.load(tmp_path / "io/small/client/inputs.npz") as found,
        np.load(finished / "small/client/inputs.npz") as expected,
    ):
        assert found["face"].shape == (4, 2, 1, 3, SIDE, SIDE)
        assert np.array_equal(found["face"], expected["face"])


def test_pairs_that_are_none(finished: Path, tmp_path: Path, refusal: Refusal) -> None:
    shutil.copytree(finished / "server_data", tmp_path / "io/server_data")
    stage = "client_preprocess_input"
    pytest.importorskip("h5py")
    assert refusal(stage, "0") == (
        "datasets/single/intermediate/test_pairs.h5: there is no such file [pair-file]\n"
        "  hint: give another with --pairs"
    )


def test_the_middle_is_taken(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "server_data", tmp_path / "io/server_data")
    wide = np.pad(IMAGES[0], ((0, 0), (3, 4), (0, 0)), constant_values=255)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    shutil.copy(finished.parent / "1.png", tmp_path)
    (tmp_path / "list").write_text("wide.png 1.png 1\n", encoding="utf-8")
    done = call(tmp_path, "client_preprocess_input", "--pairs", "list")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[1:] == [
        "warning: 1 images are not square, so no aligned faces: the middle is taken"
    ]
    with (
        np.load(tmp_path / "io/client/inputs.npz") as found,
        np.load(finished / "small/client/inputs.npz") as expected,
    ):
        assert np.array_equal(found["face"][0], expected["face"][0])
