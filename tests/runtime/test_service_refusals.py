"""Requests that the service refuses over real HTTP: told exactly why, and nothing changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.service import snapshot
from tests.service_clients import IMAGES, MORE, OTHER, PLAN, Made, refused, two_clients

pytest.importorskip("openfhe", reason="OpenFHE is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with two_clients(tmp_path_factory.mktemp("service")) as made:
        yield made


UNKNOWN_JOB = {
    "code": "no-such-job",
    "reason": "you have no such job",
    "hint": "your jobs are in /v1/jobs",
}


def test_clients_do_not_see_each_other(made: Made) -> None:
    bob, plan = made.tokens["bob"], f"/v1/jobs?plan={PLAN.digest}"
    with made.client("alice") as alice:
        job = alice.submit({"x": IMAGES[0]})
        alice.wait(job)
        for method, path in (
            ("GET", f"/v1/jobs/{job}"),
            ("GET", f"/v1/jobs/{job}/outputs"),
            ("DELETE", f"/v1/jobs/{job}"),
        ):
            assert refused(made, method, path, bob) == (404, UNKNOWN_JOB)
        assert made.server.ask("GET", "/v1/jobs", bob) == (200, {"jobs": []})
        status, body = refused(made, "PUT", f"/v1/keys/{PLAN.digest}", bob, made.keys("alice"))
        assert (status, body) == (
            422,
            {
                "code": "wrong-key-set",
                "reason": "these keys are another client's",
                "hint": "make keys of your own with: python -m runtime keygen",
            },
        )
        made.server.ask("PUT", f"/v1/keys/{PLAN.digest}", bob, made.keys("bob"))
        assert refused(made, "POST", plan, bob, made.encrypted("alice")) == (
            422,
            {
                "code": "wrong-key-set",
                "reason": "encrypted inputs made with another key",
                "hint": "use the keys of one run of: python -m runtime keygen",
            },
        )
        made.server.ask("DELETE", f"/v1/keys/{PLAN.digest}", bob)
        alice.discard(job)


def test_tokens(made: Made) -> None:
    body = {
        "code": "not-authenticated",
        "reason": "this needs the token of a client",
        "hint": "send the header: Authorization: Bearer TOKEN",
    }
    routes = [
        *(("GET", "/v1/plans"), ("GET", f"/v1/plans/{PLAN.digest}"), ("GET", "/v1/keys")),
        *(("PUT", f"/v1/keys/{PLAN.digest}"), ("DELETE", f"/v1/keys/{PLAN.digest}")),
        *(("POST", f"/v1/jobs?plan={PLAN.digest}"), ("GET", "/v1/jobs"), ("GET", "/v1/jobs/1")),
        *(("GET", "/v1/jobs/1/outputs"), ("DELETE", "/v1/jobs/1")),
    ]
    token = made.tokens["alice"]
    for method, path in routes:
        for wrong in (None, "", token[:-1], token + "x", made.tokens["bob"][:10]):
            assert refused(made, method, path, wrong) == (401, body)
    assert refused(made, "GET", "/v1/keys", None, headers={"Authorization": f"Basic {token}"}) == (
        401,
        body,
    )
    rows, _ = snapshot(made.server.folder)
    assert not any(token in row for row in rows)


def test_unknown_things(made: Made) -> None:
    token = made.tokens["alice"]
    body = {
        "code": "no-such-plan",
        "reason": "there is no such plan here",
        "hint": "the plans are in /v1/plans",
    }
    for method, path in (
        *(("GET", "/v1/plans/1"), ("PUT", "/v1/keys/1"), ("DELETE", "/v1/keys/1")),
        *(("POST", "/v1/jobs?plan=1"), ("POST", "/v1/jobs")),
    ):
        assert refused(made, method, path, token) == (404, body)
    assert refused(made, "GET", "/v1/jobs/1", token) == (404, UNKNOWN_JOB)
    assert refused(made, "GET", "/v1/jobs/1/outputs", token) == (404, UNKNOWN_JOB)
    for method, path, status, reason in (
        ("GET", "/", 404, "Not Found"),
        ("GET", "/openapi.json", 404, "Not Found"),
        ("GET", "/v1/jobs/../../secret.key", 404, "Not Found"),
        ("POST", "/v1/plans", 405, "Method Not Allowed"),
    ):
        hint = "the routes are under /v1"
        body = {"code": "no-such-route", "reason": reason, "hint": hint}
        assert refused(made, method, path, token) == (status, body)


NOT_A_BUNDLE = {
    "code": "not-a-bundle",
    "reason": "this is no file of keys or ciphertexts, or it was cut short",
    "hint": "copy it again, or make it again",
}


def spoilt(data: bytes) -> bytes:
    """With a bit flipped in the middle of the first entry."""
    changed = bytearray(data)
    changed[2000] ^= 1
    return bytes(changed)


def test_bad_keys(made: Made) -> None:
    token, path = made.tokens["bob"], f"/v1/keys/{PLAN.digest}"
    keys = made.keys("bob")
    for data in (b"", b"x" * 1000, keys[:-1], keys[: len(keys) // 2]):
        assert refused(made, "PUT", path, token, data) == (400, NOT_A_BUNDLE)
    status, body = refused(made, "PUT", path, token, spoilt(keys))
    assert (status, body["code"]) == (400, "bundle-damaged")
    assert body["reason"].startswith("the file is damaged: ")
    assert refused(made, "PUT", path, token, made.keys("other")) == (
        422,
        {
            "code": "wrong-parameters",
            "reason": "evaluation keys made for other parameters than the plan's",
            "hint": "make keys for this very plan with: python -m runtime keygen",
        },
    )
    for name, title in (("secret.key", "a secret key"), ("public.key", "a public key")):
        data = (made.folder / "bob" / name).read_bytes()
        assert refused(made, "PUT", path, token, data) == (
            422,
            {
                "code": "wrong-bundle",
                "reason": f"this holds {title}, expected evaluation keys",
                "hint": "give the file that the step before has written",
            },
        )
    assert refused(made, "PUT", f"/v1/keys/{MORE.digest}", token, keys) == (
        422,
        {
            "code": "evaluation-key-missing",
            "reason": "1 evaluation keys are missing: rotation by 101",
            "hint": "make keys for all the plans you use with one: python -m runtime keygen",
        },
    )


def test_bad_inputs(made: Made) -> None:
    token, path = made.tokens["alice"], f"/v1/jobs?plan={PLAN.digest}"
    inputs = made.encrypted("alice")
    for data in (b"", b"x" * 1000, inputs[:-1], inputs[: len(inputs) // 2]):
        assert refused(made, "POST", path, token, data) == (400, NOT_A_BUNDLE)
    status, body = refused(made, "POST", path, token, spoilt(inputs))
    assert (status, body) == (
        400,
        {
            "code": "bundle-damaged",
            "reason": "the file is damaged: entry batch-0/tensor-0/part-0 cannot be read",
            "hint": "copy it again, or make it again",
        },
    )
    wrong_parameters = made.encrypted("other", OTHER)
    assert refused(made, "POST", path, token, wrong_parameters) == (
        422,
        {
            "code": "wrong-parameters",
            "reason": "encrypted inputs made for other parameters than the plan's",
            "hint": "make keys for this very plan with: python -m runtime keygen",
        },
    )
    assert refused(made, "POST", path, token, made.encrypted("alice", MORE)) == (
        422,
        {
            "code": "wrong-plan",
            "reason": "encrypted inputs made for another plan",
            "hint": "encrypt and decrypt with the very plan that is evaluated",
        },
    )
    assert refused(made, "POST", path, made.tokens["bob"], inputs) == (
        409,
        {
            "code": "no-keys",
            "reason": "there are no evaluation keys of yours for this plan",
            "hint": "upload evaluation.keys with PUT first",
        },
    )
    assert refused(made, "POST", f"/v1/jobs?plan={MORE.digest}", token, inputs) == (
        409,
        {
            "code": "evaluation-key-missing",
            "reason": "1 evaluation keys are missing: rotation by 101",
            "hint": "make keys for all the plans you use with one: python -m runtime keygen",
        },
    )


def test_a_replay_names_the_job(made: Made) -> None:
    token, path = made.tokens["alice"], f"/v1/jobs?plan={PLAN.digest}"
    inputs = made.encrypted("alice")
    status, job = made.server.ask("POST", path, token, inputs)
    assert (status, job["state"]) == (201, "queued")
    with made.client("alice") as alice:
        alice.wait(job["id"])
        assert refused(made, "POST", path, token, inputs) == (
            409,
            {
                "code": "job-exists",
                "reason": f"these very ciphertexts are job {job['id']} already",
                "hint": "ask for that job, or encrypt the inputs again",
                "job": job["id"],
            },
        )
        alice.discard(job["id"])
    assert refused(made, "GET", f"/v1/jobs/{job['id']}", token) == (404, UNKNOWN_JOB)


def too_large(limit: int) -> tuple[int, Any]:
    body = {
        "code": "too-large",
        "reason": f"this is larger than the {limit} bytes that such a file can have",
        "hint": "upload what `python -m runtime` has written for this plan, of inputs at most 64 "
        "batches",
    }
    return 413, body


def test_uploads_without_end(made: Made) -> None:
    limit = round(1.1 * 64 * PLAN.parameters.ciphertext_bytes(0)) + (1 << 20)
    token, path = made.tokens["alice"], f"/v1/jobs?plan={PLAN.digest}"
    assert refused(made, "POST", path, token, bytes(limit)) == (400, NOT_A_BUNDLE)
    assert refused(made, "POST", path, token, bytes(limit + 1)) == too_large(limit)
    # In chunks, without a length: noticed when there is too much.
    chunks = iter([*[bytes(1 << 10)] * (limit >> 10), bytes(1 << 10)])
    assert refused(made, "POST", path, token, chunks) == too_large(limit)
    count = len(MORE.program.keys.rotations) + 2  # MORE and PLAN share their parameters
    limit = round(1.1 * count * PLAN.parameters.key_bytes) + (64 << 20)
    path = f"/v1/keys/{PLAN.digest}"
    headers = {"Content-Length": str(limit + 1)}  # refused before anything is sent
    assert refused(made, "PUT", path, made.tokens["bob"], headers=headers) == too_large(limit)


def test_a_client_that_goes_leaves_nothing(made: Made) -> None:
    """A body that ends before its announced length."""
    before = snapshot(made.server.folder)
    inputs = made.encrypted("alice")
    for end in (0, 1000, len(inputs) - 1):
        connection = HTTPConnection("127.0.0.1", made.server.port, timeout=60)
        connection.putrequest("POST", f"/v1/jobs?plan={PLAN.digest}")
        connection.putheader("Authorization", f"Bearer {made.tokens['alice']}")
        connection.putheader("Content-Length", str(len(inputs)))
        connection.endheaders()
        connection.send(inputs[:end])
        connection.close()
    # Answered after those have been noticed: the server handles events in order.
    assert made.server.ask("GET", "/v1/jobs", made.tokens["alice"]) == (200, {"jobs": []})
    incoming = Path(made.server.folder, "incoming")
    for _ in range(200):
        if not list(incoming.iterdir()):
            break
        time.sleep(0.01)
    assert snapshot(made.server.folder) == before
