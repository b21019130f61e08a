"""Enrolments and comparisons that the service refuses: told why, and nothing changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import pytest

from tests.runtime.test_service_refusals import NOT_A_BUNDLE, spoilt, too_large
from tests.service_gallery import (
    ENROL,
    IDENTIFY,
    JOBS,
    OTHER,
    TEMPLATES,
    Made,
    assert_scores,
    clear,
    feeds,
    jobs,
    no_template,
    post,
    refusal,
    stopped_job,
    template_file,
    two_galleries,
    wait,
    wait_idle,
)
from tests.templates import PLAN

pytest.importorskip("openfhe", reason="OpenFHE is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with two_galleries(tmp_path_factory.mktemp("service")) as made:
        yield made


@pytest.fixture(autouse=True)
def cleared(made: Made) -> Iterator[None]:
    yield
    clear(made)


def worker_busy(made: Made) -> AbstractContextManager[str]:
    """Jobs stay queued, behind one of Bob's."""
    return stopped_job(made, lambda: str(made.bob.submit(feeds(7))))


def test_names_that_are_refused(made: Made) -> None:
    images = made.encrypted("alice", 3, 4)
    assert made.refused("POST", f"{ENROL}&name=x&name=b", images) == (
        409,
        {
            "code": "template-exists",
            "reason": "there is a template b already",
            "hint": "choose another name, or remove it first",
        },
    )
    for names, count in (("", 0), ("&name=x", 1), ("&name=x&name=x", 1)):
        assert made.refused("POST", ENROL + names, images) == (
            422,
            {
                "code": "template-name",
                "reason": f"there are 2 images and {count} different names",
                "hint": "give one name for each",
            },
        )
    for name, quoted in (("", ""), ("../a", "..%2Fa"), ("a b", "a%20b"), ("a" * 101, "a" * 101)):
        for path in (ENROL, IDENTIFY):
            assert made.refused("POST", f"{path}&name={quoted}", images) == (
                422,
                {
                    "code": "template-name",
                    "reason": f"{name!r} cannot be the name of a template",
                    "hint": "use up to 100 letters, digits, dots, dashes and underscores",
                },
            )
    probe = made.encrypted("alice", 7)
    assert made.refused("POST", f"{IDENTIFY}&name=a&name=x", probe) == no_template("x")
    for name in ("x", "..", "a b"):
        path = f"/v1/templates/{name.replace(' ', '%20')}?plan={PLAN.digest}"
        assert made.refused("DELETE", path)[0] == 404
    assert refusal(made.alice.remove_template, "x") == (
        "you have no template x here [no-such-template]\n"
        "  hint: the names are in /v1/templates; those of queued jobs are not there yet"
    )


def test_requests_that_are_refused(made: Made) -> None:
    probe = made.encrypted("alice", 7)
    assert made.refused("POST", f"{JOBS}&kind=other", probe) == (
        422,
        {
            "code": "unknown-kind",
            "reason": "there are no jobs of kind 'other'",
            "hint": "the kinds are evaluate, enrol, identify",
        },
    )
    assert made.refused("POST", f"{JOBS}&name=a", probe) == (
        422,
        {
            "code": "unexpected-name",
            "reason": "an evaluation takes no names",
            "hint": "choose another kind",
        },
    )
    assert made.refused("POST", IDENTIFY, made.encrypted("alice", 7, 8)) == (
        422,
        {
            "code": "one-probe",
            "reason": "there are 2 images, one is compared at a time",
            "hint": "encrypt one image",
        },
    )
    no_templates = {
        "code": "no-template",
        "reason": "this plan does not give templates",
        "hint": "compile the model with --match gallery",
    }
    for method, path in (
        ("POST", f"/v1/jobs?plan={OTHER.digest}&kind=enrol&name=x"),
        ("POST", f"/v1/jobs?plan={OTHER.digest}&kind=identify"),
        ("GET", f"/v1/templates?plan={OTHER.digest}"),
        ("DELETE", f"/v1/templates/a?plan={OTHER.digest}"),
    ):
        assert made.refused(method, path) == (422, no_templates)
    for method, path in (("GET", "/v1/templates"), ("DELETE", "/v1/templates/a?plan=1")):
        assert made.refused(method, path)[0] == 404
    for method, path in (("GET", TEMPLATES), ("DELETE", f"/v1/templates/a?plan={PLAN.digest}")):
        assert made.server.ask(method, path, "wrong")[0] == 401
    path = f"/v1/keys/{PLAN.digest}"
    assert made.refused("DELETE", path) == (
        409,
        {
            "code": "keys-in-use",
            "reason": "stored templates need these keys",
            "hint": "remove the templates, which other keys cannot be used with",
        },
    )


@pytest.mark.parametrize("path", [f"{ENROL}&name=x", IDENTIFY], ids=["enrol", "identify"])
def test_uploads_that_are_refused(made: Made, path: str) -> None:
    probe = made.encrypted("alice", 7)
    for data in (b"", b"x" * 1000, probe[:-1], probe[: len(probe) // 2]):
        assert made.refused("POST", path, data) == (400, NOT_A_BUNDLE)
    status, body = made.refused("POST", path, spoilt(probe))
    assert (status, body["code"]) == (400, "bundle-damaged")
    limit = round(1.1 * 64 * PLAN.parameters.ciphertext_bytes(0)) + (1 << 20)
    assert made.refused("POST", path, bytes(limit + 1)) == too_large(limit)
    for name, plan, code in (
        ("bob", PLAN, "wrong-key-set"),
        ("other", OTHER, "wrong-parameters"),
    ):
        status, body = made.refused("POST", path, made.encrypted(name, 7, plan=plan))
        assert (status, body["code"]) == (422, code)
    for name in ("secret.key", "public.key", "evaluation.keys"):
        data = (made.folder / "alice" / name).read_bytes()
        status, body = made.refused("POST", path, data)
        assert (status, body["code"]) in ((422, "wrong-bundle"), (413, "too-large"))
    # A template is no image.
    data = template_file(made, "a").read_bytes()
    status, body = made.refused("POST", path, data)
    assert (status, body["reason"]) == (
        422,
        "this holds a stored template, expected encrypted inputs",
    )


def test_clients_do_not_see_each_other(made: Made) -> None:
    assert made.names("bob") == []
    path = f"/v1/templates/a?plan={PLAN.digest}"
    assert made.refused("DELETE", path, client="bob") == no_template("a")
    probe = made.encrypted("bob", 7)
    empty = {
        "code": "empty-gallery",
        "reason": "there is no template to compare with",
        "hint": "enrol first; templates of queued jobs are not there yet",
    }
    assert made.refused("POST", IDENTIFY, probe, "bob") == (409, empty)
    assert made.refused("POST", f"{IDENTIFY}&name=a", probe, "bob") == no_template("a")
    made.bob.enrol("a", feeds(5))  # a name of his own
    assert_scores(made.bob.identify(feeds(7)), 7, {"a": 5})
    assert_scores(made.alice.identify(feeds(7), ["a"]), 7, {"a": 0})
    made.bob.remove_template("a")
    assert made.names() == ["a", "b", "c"]


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_name_belongs_to_one_job(made: Made, state: str) -> None:
    """Reserved while the job waits or runs, free again when it is gone; replays are no clash."""
    images, other = made.encrypted("alice", 5), made.encrypted("alice", 6)
    with ExitStack() as stack:
        if state == "queued":
            stack.enter_context(worker_busy(made))
            first = post(made, f"{ENROL}&name=x", images)
        else:
            enrol = partial(post, made, f"{ENROL}&name=x", images)
            first = stack.enter_context(stopped_job(made, enrol))
        ((_, job),) = [found for found in jobs(made) if found[0] == "alice"]
        assert (job["id"], job["state"]) == (first, state)
        replay = {
            "code": "job-exists",
            "reason": f"these very ciphertexts are job {first} already",
            "hint": "ask for that job, or encrypt the inputs again",
            "job": first,
        }
        reserved = {
            "code": "template-reserved",
            "reason": f"job {first} is to store a template x",
            "hint": "choose another name, or delete that job",
        }
        token = made.tokens["alice"]
        assert made.server.ask("POST", f"{ENROL}&name=x", token, images) == (409, replay)
        assert made.server.ask("POST", f"{ENROL}&name=x", token, other) == (409, reserved)
        assert [job["id"] for client, job in jobs(made) if client == "alice"] == [first]
        made.alice.discard(first)
        second = post(made, f"{ENROL}&name=x", other)
    wait(made, [second])
    assert_scores(made.alice.identify(feeds(7), ["x"]), 7, {"x": 6})


def test_requests_at_the_same_time(made: Made) -> None:
    """Of one upload made four times all are one job; of four uploads one gets the name."""
    path, token = f"{ENROL}&name=x", made.tokens["alice"]

    def ask(bodies: Sequence[bytes]) -> tuple[str, list[tuple[int, Any]]]:
        with ThreadPoolExecutor(len(bodies)) as pool:
            answers = [*pool.map(lambda body: made.server.ask("POST", path, token, body), bodies)]
        ((_, job),) = [answer for answer in answers if answer[0] == 201]
        made.alice.discard(job["id"])
        return job["id"], [answer for answer in answers if answer[0] != 201]

    images = [made.encrypted("alice", 5) for _ in range(4)]
    with worker_busy(made):
        job, others = ask(images[:1] * 4)
        assert [(status, body["job"]) for status, body in others] == [(409, job)] * 3
        job, others = ask(images)
    refused = [(status, body["code"]) for status, body in others]
    assert refused == [(409, "template-reserved")] * 3
    assert made.names() == ["a", "b", "c"]


def test_a_replay_after_the_end(made: Made) -> None:
    images = made.encrypted("alice", 5)
    job = post(made, f"{ENROL}&name=x", images)
    made.alice.wait(job)
    wait_idle(made)
    for path in (f"{ENROL}&name=x", f"{ENROL}&name=y", IDENTIFY, JOBS):
        status, body = made.refused("POST", path, images)
        assert (status, body["code"], body["job"]) == (409, "job-exists", job)
    made.alice.discard(job)
    status, body = made.refused("POST", f"{ENROL}&name=x", images)
    assert (status, body["code"]) == (409, "template-exists")
