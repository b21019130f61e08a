"""The page's server and a real service: enrol, verify, identify, over restarts of either."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fhecompile.errors import EXIT_BAD_INPUT
from runtime.__main__ import main
from runtime.face_alignment import SIDE as ALIGNED_SIDE
from runtime.face_alignment import TEMPLATE, align, prepare
from tests.page import PEOPLE, SIDE, THRESHOLD, Page, cosine, encoded, face_service, snapshot_of
from tests.service import ServerProcess

pytest.importorskip("openfhe", reason="OpenFHE is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

ERROR = 1e-3
ALICE, BOB = PEOPLE["alice"][0], PEOPLE["bob"][0]
PHOTO, POINTS = snapshot_of(ALICE)


def expected(first: Any, second: Any) -> float:
    return cosine(prepare(first, SIDE), prepare(second, SIDE))


@dataclass(frozen=True)
class Made:
    """A service and a page; Alice is enrolled from a snapshot, Bob from an aligned photo."""

    folder: Path
    server: ServerProcess
    page: Page


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("page")
    with face_service(folder) as server:
        page = Page(server.url, folder)
        page.client.upload_keys()
        status, nobody = page.submit("identify", encoded(ALICE))
        assert (status, nobody["reason"]) == (409, "there is no template to compare with")
        points = ",".join(map(str, POINTS.ravel().tolist()))
        _, first = page.submit("enrol", encoded(PHOTO), name="alice", points=points)
        page.ended("enrol", encoded(BOB), name="bob")
        found = page.wait(first["id"])
        assert found == {
            "id": first["id"],
            "kind": "enrol",
            "title": "Enrol alice",
            "state": "done",
            "progress": 1.0,
            "eta": 0.0,
            "error": None,
            "scores": [],
            "compared": 0,
            "decision": "",
        }
        yield Made(folder, server, page)


def test_the_session(made: Made) -> None:
    status, found = made.page.ask("GET", "/api/session")
    assert status == 200
    np.testing.assert_allclose(
        np.array(found.pop("template")) * ALIGNED_SIDE - 0.5, TEMPLATE, rtol=0, atol=1e-9
    )
    assert found == {
        "model": "small",
        "server": made.server.url,
        "side": SIDE,
        "aligned_side": ALIGNED_SIDE,
        "threshold": THRESHOLD,
        "largest_bytes": 32 << 20,
    }


def test_verify_and_identify(made: Made) -> None:
    page, aligned = made.page, align(PHOTO, POINTS)
    same, other = expected(aligned, PEOPLE["alice"][1]), expected(aligned, BOB)
    assert same > THRESHOLD + 2 * ERROR and other < THRESHOLD - 2 * ERROR
    photos = {"alice": encoded(PEOPLE["alice"][1]), "bob": encoded(BOB)}
    asked = [
        page.submit("verify", photos["alice"], name="alice"),
        page.submit("verify", photos["bob"], name="alice"),
        page.submit("identify", photos["bob"]),
    ]
    assert [status for status, _ in asked] == [201] * 3
    again, stranger, known = (page.wait(job["id"]) for _, job in asked)

    assert (again["kind"], again["title"], again["compared"]) == ("verify", "Verify alice", 1)
    assert again["scores"] == [
        {"name": "alice", "score": pytest.approx(same, abs=ERROR), "match": True}
    ]
    assert again["decision"] == "The same person as alice"
    assert stranger["scores"] == [
        {"name": "alice", "score": pytest.approx(other, abs=ERROR), "match": False}
    ]
    assert stranger["decision"] == "Not the same person as alice"
    assert (known["kind"], known["title"], known["compared"]) == ("identify", "Identify", 2)
    assert known["scores"] == [
        {"name": "bob", "score": pytest.approx(1.0, abs=ERROR), "match": True},
        {"name": "alice", "score": pytest.approx(other, abs=ERROR), "match": False},
    ]
    assert known["decision"] == "Recognised: bob"

    # Another client process finds the same; it may judge otherwise, or not at all.
    assert Page(made.server.url, made.folder).jobs() == page.jobs()
    *_, strict = Page(made.server.url, made.folder, 1.1).jobs()
    assert (strict["decision"], strict["scores"][1]["match"]) == ("Not recognised", False)
    *_, unjudged = Page(made.server.url, made.folder, None).jobs()
    assert [score["match"] for score in unjudged["scores"]] == [None, None]
    assert unjudged["decision"] == ""


def test_jobs_are_found_again_when_service_and_page_were_away(made: Made) -> None:
    made.server.kill()
    assert made.page.submit("verify", encoded(BOB), name="bob") == (
        503,
        {
            "code": "no-connection",
            "reason": "cannot reach the server ([Errno 111] Connection refused)",
            "hint": "check its address; jobs that it has accepted go on without you",
        },
    )
    made.server.start()
    page = Page(made.server.url, made.folder)
    *_, sent = page.jobs()
    assert sent["title"] == "Verify bob"
    found = Page(made.server.url, made.folder).wait(sent["id"])
    assert found["decision"] == "The same person as bob"
    assert page.jobs()[0]["title"] == "Enrol alice"


def test_jobs_and_templates_are_removed(made: Made) -> None:
    page = made.page
    assert page.names() == ["alice", "bob"]
    gone, *others = page.jobs()
    assert page.ask("DELETE", f"/api/jobs/{gone['id']}") == (204, None)
    assert page.jobs() == others
    assert page.ask("DELETE", "/api/templates/bob") == (204, None)
    assert page.names() == ["alice"]


def test_a_job_that_was_removed_elsewhere(made: Made) -> None:
    job, token = made.page.jobs()[0], (made.folder / "token").read_text().strip()
    assert made.server.ask("DELETE", f"/v1/jobs/{job['id']}", token)[0] == 204
    page = Page(made.server.url, made.folder)
    lost, *others = page.jobs()
    assert (lost["id"], lost["title"], lost["state"]) == (job["id"], "A lost job", "failed")
    assert lost["error"]["code"] == "no-such-job"
    assert page.ask("DELETE", f"/api/jobs/{job['id']}") == (204, None)
    assert page.jobs() == others


def test_a_token_the_service_does_not_know(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, token = str(made.server.plans[0]), tmp_path / "token"
    token.write_text("another\n")
    command = ["page", plan, "--insecure-toy", "--quiet", "--server", made.server.url]
    command += ["--token-file", str(token), "--keys", str(made.folder / "keys")]
    assert main(command) == EXIT_BAD_INPUT
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"error: {token}: the service does not know this token [token-file]",
        "  hint: put there what `python -m runtime add-client` printed",
    ]


def test_a_client_that_was_removed(made: Made, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("another")
    (tmp_path / "keys").symlink_to(made.folder / "keys")
    assert Page(made.server.url, tmp_path).ask("GET", "/api/templates") == (
        502,
        {
            "code": "unknown-client",
            "reason": "the service does not know this client any more",
            "hint": "ask its operator, and start the page again with the right --token-file",
        },
    )


NOT_A_NAME = {
    "code": "template-name",
    "reason": "'../alice' cannot be the name of a template",
    "hint": "use up to 100 letters, digits, dots, dashes and underscores",
}


@pytest.mark.parametrize(
    ("query", "status", "body"),
    [
        (
            {"kind": "enrol"},
            422,
            {
                "code": "no-name",
                "reason": "a name is needed",
                "hint": "say who it is, or with whom to compare",
            },
        ),
        ({"kind": "enrol", "name": "../alice"}, 422, NOT_A_NAME),
        ({"kind": "verify", "name": "../alice"}, 422, NOT_A_NAME),
        (
            {"kind": "enrol", "name": "alice"},
            409,
            {
                "code": "template-exists",
                "reason": "there is a template alice already",
                "hint": "choose another name, or remove it first",
            },
        ),
        (
            {"kind": "evaluate"},
            400,
            {
                "code": "unknown-kind",
                "reason": "there are no jobs of kind 'evaluate'",
                "hint": "reload the page",
            },
        ),
        (
            {"kind": "identify", "points": "1,2,x"},
            400,
            {"code": "landmarks", "reason": "the points are no numbers", "hint": ""},
        ),
        (
            {"kind": "identify", "points": "1,2,3,4"},
            422,
            {
                "code": "landmarks",
                "reason": "five points in the photo are needed",
                "hint": "set each on the face",
            },
        ),
    ],
)
def test_refused_submissions(
    made: Made, query: dict[str, str], status: int, body: dict[str, str]
) -> None:
    before = made.page.jobs()
    assert made.page.submit(photo=encoded(BOB), **query) == (status, body)  # type: ignore[arg-type]
    assert made.page.jobs() == before
    assert list((made.folder / "keys").glob("job-*")) == []


def test_refusals(made: Made) -> None:
    page = made.page
    status, body = page.submit("verify", encoded(ALICE), name="carol")
    assert (status, body["code"]) == (404, "no-such-template")
    status, body = page.submit("enrol", b"GIF89a", name="carol")
    assert (status, body["reason"]) == (422, "this is no photo that can be read")
    status, body = page.ask("DELETE", "/api/templates/carol")
    assert (status, body["code"]) == (404, "no-such-template")
    assert page.ask("DELETE", "/api/jobs/0123") == (
        404,
        {"code": "no-such-job", "reason": "there is no such job", "hint": "reload the page"},
    )
    assert page.ask("GET", "/api/photos") == (
        404,
        {"code": "no-such-route", "reason": "Not Found", "hint": "open the page at /"},
    )
    large = str((32 << 20) + 1)  # refused by its length, before any of it has come
    assert page.ask("POST", "/api/jobs?kind=identify", **{"Content-Length": large}) == (
        413,
        {
            "code": "photo-large",
            "reason": "the photo's file is larger than 32 MiB",
            "hint": "make it smaller, or cut out the face",
        },
    )


def test_photos_and_scores_stay_in_the_client(made: Made) -> None:
    """No file of the service's or the client's holds them, whatever was asked before."""
    made.page.ended("verify", encoded(ALICE), name="alice")
    scores = [score["score"] for job in made.page.jobs() for score in job["scores"]]
    private = [json.dumps(score).encode() for score in scores]
    private += [encoded(ALICE)[100:200], encoded(PHOTO)[100:200], ALICE.tobytes()[:300]]
    files = [path for path in made.folder.rglob("*") if path.is_file()]
    assert scores and len(files) > 8
    for path in files:
        content = path.read_bytes()
        assert not any(secret in content for secret in private), path
