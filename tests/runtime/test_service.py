"""The service over real HTTP: the whole way, and what its client sees."""

from __future__ import annotations

import shutil
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fhecompile.errors import FheCompileError
from runtime.inputs import CalibrationWarning
from runtime.roles import decrypt_file, evaluate_file
from runtime.service.client import ServiceClient
from tests.service_clients import IMAGES, MORE, OTHER, PLAN, Made, refused, two_clients
from tests.support import relative_error, run_slots

pytest.importorskip("openfhe", reason="OpenFHE is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

EXPECTED = run_slots(PLAN, {"x": IMAGES})["y"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with two_clients(tmp_path_factory.mktemp("service")) as made:
        yield made


def test_the_whole_way(made: Made, tmp_path: Path) -> None:
    shares: list[float] = []
    with made.client("alice") as alice:
        found = alice.run({"x": IMAGES}, shares.append)["y"]
        single = alice.run({"x": IMAGES[0]})["y"]
        assert alice.pending() == []
    assert relative_error(found, EXPECTED[:, 0]) < 1e-2
    assert relative_error(single, EXPECTED[0]) < 1e-2
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_outputs_outside_their_range_are_told_of_once(made: Made) -> None:
    with made.client("alice") as alice:
        with pytest.warns(CalibrationWarning, match="^input x reaches "):
            job = alice.submit({"x": 5 * IMAGES}, ignore_range=True)
        alice.wait(job)
        with pytest.warns(CalibrationWarning, match="^output y reaches .* do not trust the result"):
            alice.result(job)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            alice.result(job)
        assert caught == [] and list(alice.outside.texts) == ["input x", "output y"]
        alice.discard(job)


def test_the_result_is_that_of_the_roles(made: Made, tmp_path: Path) -> None:
    """Evaluation is deterministic: the very same outputs as with `evaluate` on files."""
    keys = made.folder / "alice"
    with made.client("alice") as alice:
        job = alice.submit({"x": IMAGES})
        uploaded = Path(made.server.folder, "inputs")
        alice.wait(job)
        status = alice.status(job)
        assert (status.state, status.progress, status.eta, status.code) == ("done", 1.0, 0.0, "")
        encrypted, path = made.encrypted("alice"), f"/v1/jobs?plan={PLAN.digest}"
        created = made.server.ask("POST", path, made.tokens["alice"], encrypted)
        assert created[0] == 201
        alice.wait(created[1]["id"])
        found = alice.result(created[1]["id"])["y"]
        assert list(uploaded.iterdir()) == []  # inputs of jobs that are done are not kept
        for name in (job, created[1]["id"]):
            alice.discard(name)
    (tmp_path / "x").write_bytes(encrypted)
    evaluate_file(PLAN, keys / "evaluation.keys", tmp_path / "x", tmp_path / "y")
    np.testing.assert_array_equal(
        found, decrypt_file(PLAN, keys / "secret.key", tmp_path / "y")["y"]
    )


def test_the_server_never_has_a_secret(made: Made) -> None:
    secrets = []
    for name in ("alice", "bob"):
        with zipfile.ZipFile(made.folder / name / "secret.key") as archive:
            secrets.append(archive.read("secret")[-500:])
    assert made.server.process is not None
    opened = Path(f"/proc/{made.server.process.pid}/fd")
    assert not any("secret" in str(path.resolve()) for path in opened.iterdir())
    for path in made.server.folder.rglob("*"):
        assert path.is_dir() or not any(secret in path.read_bytes() for secret in secrets), path


def test_what_is_on_offer(made: Made) -> None:
    status, body = made.server.ask("GET", "/v1/plans", made.tokens["bob"])
    assert status == 200
    assert body == {
        "plans": [{"plan": p.digest, "model": p.program.model_name} for p in (PLAN, MORE, OTHER)]
    }
    status, body = made.server.ask("GET", f"/v1/plans/{PLAN.digest}", made.tokens["bob"])
    keys, parameters = PLAN.program.keys, PLAN.parameters
    assert status == 200
    assert body.pop("predicted_seconds") > 0
    assert body == {
        "plan": PLAN.digest,
        "model": PLAN.program.model_name,
        "batch": 1,
        "inputs": [{"name": "x", "shape": [1, 2, 8, 8]}],
        "outputs": [{"name": "y", "shape": [1, 5]}],
        "parameters": msgspec.structs.asdict(PLAN.program.parameters),
        "keys": {
            "rotations": len(keys.rotations),
            "conjugation": keys.conjugation,
            "relinearisation": keys.relinearisation,
            "bytes": (len(keys.rotations) + keys.conjugation + 1) * parameters.key_bytes,
        },
        "input_bytes": parameters.ciphertext_bytes(0),
        "gives_templates": False,
    }


def test_keys_are_uploaded_once(made: Made) -> None:
    path, token = f"/v1/keys/{PLAN.digest}", made.tokens["alice"]
    status, body = refused(made, "PUT", path, token, made.keys("alice"))
    assert status == 200
    assert body["plans"] == [PLAN.digest]
    assert body["bytes"] == len(made.keys("alice"))
    assert made.server.ask("GET", "/v1/keys", token) == (200, {"keys": [body]})
    assert refused(made, "PUT", path, token, made.keys("bob")) == (
        409,
        {
            "code": "keys-exist",
            "reason": "there are other keys of yours for these parameters",
            "hint": "delete them first with DELETE; results under way need the secret key of the "
            "old ones",
        },
    )


def test_keys_can_be_replaced(made: Made) -> None:
    path, token = f"/v1/keys/{PLAN.digest}", made.tokens["bob"]
    missing = {
        "code": "no-such-keys",
        "reason": "you have no keys for this plan here",
        "hint": "yours are in /v1/keys",
    }
    assert refused(made, "DELETE", path, token) == (404, missing)
    assert made.server.ask("PUT", path, token, made.keys("bob"))[0] == 201
    assert made.server.ask("DELETE", path, token) == (204, None)
    assert made.server.ask("GET", "/v1/keys", token) == (200, {"keys": []})
    assert len(list(Path(made.server.folder, "keys").iterdir())) == 1  # Alice's


def test_uploads_at_the_same_time_are_one(made: Made) -> None:
    """A client tries again while its first request is still being checked."""
    token, path = made.tokens["bob"], f"/v1/keys/{PLAN.digest}"
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(made.server.ask, "PUT", path, token, made.keys("bob")) for _ in "1234"]
        answers = [future.result() for future in asked]
    assert sorted(status for status, _ in answers) == [200, 200, 200, 201]
    assert all(body == answers[0][1] for _, body in answers)
    inputs, path = made.encrypted("bob"), f"/v1/jobs?plan={PLAN.digest}"
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(made.server.ask, "POST", path, token, inputs) for _ in "1234"]
        answers = sorted((future.result() for future in asked), key=lambda answer: answer[0])
    (created, job), *replays = answers
    assert created == 201
    assert [(status, body["job"]) for status, body in replays] == [(409, job["id"])] * 3
    with made.client("bob") as bob:
        bob.wait(job["id"])
        bob.discard(job["id"])
    assert made.server.ask("DELETE", f"/v1/keys/{PLAN.digest}", token) == (204, None)
    assert list(Path(made.server.folder, "incoming").iterdir()) == []


def test_the_client_says_what_is_refused(made: Made, tmp_path: Path) -> None:
    wrong = ServiceClient(made.server.url, "wrong", PLAN, made.folder / "alice", insecure_toy=True)
    with wrong, pytest.raises(FheCompileError) as caught:
        wrong.submit({"x": IMAGES})
    assert str(caught.value) == (
        "this needs the token of a client [not-authenticated]\n"
        "  hint: send the header: Authorization: Bearer TOKEN"
    )
    with made.client("alice") as alice:
        assert alice.pending() == []
    assert list((made.folder / "alice").glob("job-*")) == []
    shutil.copytree(made.folder / "alice", tmp_path / "keys")
    unreachable = ServiceClient(
        "http://127.0.0.1:9", "t", PLAN, tmp_path / "keys", patience=0.2, insecure_toy=True
    )
    with unreachable, pytest.raises(FheCompileError) as caught:
        unreachable.submit({"x": IMAGES})
    assert str(caught.value) == (
        "http://127.0.0.1:9: cannot reach the server ([Errno 111] Connection refused) "
        "[no-connection]\n"
        "  hint: check its address; jobs that it has accepted go on without you"
    )
    assert len(list((tmp_path / "keys").glob("job-*"))) == 1  # sent when the server is back
    with pytest.raises(FheCompileError, match="insecure-plan"):
        ServiceClient(made.server.url, "t", PLAN, tmp_path / "keys")
