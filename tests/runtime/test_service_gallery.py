"""The encrypted gallery over real HTTP: enrolled, compared, removed, and cut off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.service.client import ServiceClient
from tests.runtime.test_roles import altered
from tests.runtime.test_service_refusals import spoilt
from tests.service_gallery import (
    ALL,
    ENROL,
    ERROR,
    OTHER,
    Made,
    assert_scores,
    feeds,
    post,
    refusal,
    stored_files,
    template_file,
    two_galleries,
    wait,
)
from tests.templates import COSINES, FACES, PLAN

pytest.importorskip("openfhe", reason="OpenFHE is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with two_galleries(tmp_path_factory.mktemp("service")) as made:
        yield made


def test_compared_with_all_some_and_one(made: Made) -> None:
    shares: list[float] = []
    found = made.alice.identify(feeds(7), progress=shares.append)
    assert_scores(found, 7, ALL)
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert_scores(made.alice.identify(feeds(7), ["c", "a", "c"]), 7, {"a": 0, "c": 2})
    assert_scores(made.alice.identify(feeds(7), "c"), 7, {"c": 2})  # one name
    found = made.alice.verify("b", {"x": FACES[7]})
    assert abs(found - COSINES[7, 1]) < ERROR
    assert made.alice.pending() == []
    assert list(Path(made.server.folder, "incoming").iterdir()) == []


def test_what_is_stored(made: Made) -> None:
    stored = made.alice.templates()
    assert [template.name for template in stored] == ["a", "b", "c"]
    before = stored_files(made)
    assert [template.bytes for template in stored] == [len(data) for _, data in before.values()]
    assert stored[0].created < stored[1].created <= stored[2].created
    # The first free place is taken, and other files stay when one leaves.
    made.alice.enrol("d", feeds(3))
    made.alice.remove_template("b")
    made.alice.enrol("e", feeds(4))
    assert_scores(made.alice.identify(feeds(33)), 33, {"a": 0, "c": 2, "d": 3, "e": 4})
    after = stored_files(made)
    assert {name: place for name, (place, _) in after.items()} == {"a": 0, "c": 2, "d": 3, "e": 1}
    assert all(after[name] == before[name] for name in "ac")
    for name in ("d", "e"):
        made.alice.remove_template(name)
    made.alice.enrol("b", feeds(1))


def test_a_job_says_what_it_is(made: Made) -> None:
    job = made.alice.submit_identify(feeds(7), ["b"])
    made.alice.wait(job)
    status = made.alice.status(job)
    assert (status.kind, status.names, status.state) == ("identify", ("b",), "done")
    assert refusal(made.alice.result, job).endswith(
        ": this holds encrypted scores, expected encrypted outputs [wrong-bundle]\n"
        "  hint: give the file that the step before has written"
    )
    made.alice.discard(job)
    job = made.alice.submit_enrol(["x"], feeds(7))
    made.alice.wait(job)
    assert made.refused("GET", f"/v1/jobs/{job}/outputs") == (
        409,
        {
            "code": "no-outputs",
            "reason": "the job stored templates: it has no outputs",
            "hint": "they are listed in /v1/templates",
        },
    )
    body = made.server.ask("GET", f"/v1/jobs/{job}", made.tokens["alice"])[1]
    assert (body["kind"], body["names"], body["outputs"]) == ("enrol", ["x"], None)
    made.alice.discard(job)
    assert made.names() == ["a", "b", "c", "x"]  # the template stays
    made.alice.remove_template("x")
    assert made.server.ask("GET", f"/v1/plans/{PLAN.digest}", made.tokens["bob"])[1][
        "gives_templates"
    ]


def test_a_failed_enrolment_stores_nothing(made: Made, tmp_path: Path) -> None:
    """The second of two images is none: that is only seen when it is to be evaluated."""
    (tmp_path / "x").write_bytes(made.encrypted("alice", 5, 6))

    def forge(entries: dict[str, bytes], _: Any) -> None:
        entries["batch-1/tensor-0/part-0"] = b"\xff" * 1000

    forged = altered(tmp_path / "x", tmp_path / "y", forge)
    before = stored_files(made)
    job = post(made, f"{ENROL}&name=x&name=y", forged.read_bytes())
    assert refusal(made.alice.wait, job) == (
        f"job {job}: inputs: batch-1/tensor-0/part-0: OpenFHE cannot read it [wrong-ciphertext]\n"
        "  hint: make it again with the same version of OpenFHE"
    )
    assert stored_files(made) == before
    made.alice.enrol("x", feeds(5))  # the name is free, with the failed job still there
    made.alice.remove_template("x")
    made.alice.discard(job)


def test_a_damaged_template_fails_the_job(made: Made) -> None:
    files = {name: template_file(made, name) for name in "ab"}
    path, data = files["b"], files["b"].read_bytes()
    for harm, reason in (
        (spoilt(data), "the file is damaged: entry place-1 cannot be read [bundle-damaged]"),
        (
            files["a"].read_bytes(),
            "the template is damaged: it is that of another place [template-damaged]",
        ),
        (None, "cannot read a stored template (No such file or directory) [no-such-file]"),
    ):
        path.unlink() if harm is None else path.write_bytes(harm)
        job = made.alice.submit_identify(feeds(7))
        text = refusal(made.alice.wait, job)
        assert text.splitlines()[0] == f"job {job}: template b: {reason}"
        assert str(made.server.folder) not in text
        made.alice.discard(job)
    path.write_bytes(data)
    assert_scores(made.alice.identify(feeds(7)), 7, ALL)


def test_a_template_removed_before_its_job(made: Made) -> None:
    made.alice.enrol("x", feeds(5))
    ahead = made.alice.submit_identify(feeds(7), ["a"])
    job = made.alice.submit_identify(feeds(7), ["a", "x"])
    made.alice.remove_template("x")
    text = refusal(made.alice.wait, job)
    assert text.startswith(f"job {job}: the template x was removed [no-such-template]\n")
    for name in (ahead, job):
        made.alice.discard(name)


def test_a_submission_cut_off_keeps_kind_and_names(made: Made) -> None:
    """Before the upload, and after it but before the answer: each becomes the job asked for."""
    connection = made.alice._connection
    sent = connection.send

    def lose_answer(method: str, *arguments: Any) -> Any:
        answer = sent(method, *arguments)
        if method == "POST":
            raise KeyboardInterrupt
        return answer

    def lose_request(method: str, *arguments: Any) -> Any:
        if method == "POST":
            raise KeyboardInterrupt
        return sent(method, *arguments)

    for name, lose in (("x", lose_answer), ("y", lose_request)):
        connection.send = lose
        with pytest.raises(KeyboardInterrupt):
            made.alice.enrol(name, feeds(5))
        with pytest.raises(KeyboardInterrupt):
            made.alice.identify(feeds(7), ["b", "c"])
        connection.send = sent
        first, second = made.alice.pending()
        made.alice.wait(first)
        made.alice.wait(second)
        assert_scores(made.alice.scores(second), 7, {"b": 1, "c": 2})
        wait(made, [first, second])
    assert made.names() == ["a", "b", "c", "x", "y"]
    for name in ("x", "y"):
        made.alice.remove_template(name)
    assert made.alice.pending() == []


def test_a_plan_without_templates_is_refused_here(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.folder / "other", tmp_path / "keys")
    other = ServiceClient(
        made.server.url, made.tokens["alice"], OTHER, tmp_path / "keys", insecure_toy=True
    )
    with other:
        assert refusal(other.enrol, "x", {"x": np.zeros((1, 2, 8, 8))}) == (
            "this plan does not give templates [no-template]\n"
            "  hint: compile the model with --match gallery"
        )
        assert other.pending() == []
