"""Who may ask the page's server: no other site, no other host, nobody without the token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="uvicorn is not installed")
testclient = pytest.importorskip("starlette.testclient", reason="httpx is not installed")
app_module = pytest.importorskip("runtime.page.app")

TOKEN = "the-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
STATIC = app_module.STATIC
TYPES = {
    ".css": ["text/css"],
    ".html": ["text/html"],
    ".js": ["text/javascript", "application/javascript"],
    ".svg": ["image/svg+xml"],
}

OTHER_HOST = {
    "code": "other-host",
    "reason": "this server does not answer to that name",
    "hint": "open the address that was printed when it was started",
}
OTHER_ORIGIN = {
    "code": "other-origin",
    "reason": "another web site may not use this page's server",
    "hint": "",
}
NO_TOKEN = {
    "code": "not-authenticated",
    "reason": "this tab does not belong to the session that is running now",
    "hint": "open the address that was printed when it was started",
}


class Counted:
    """Faces that only count what is asked of them."""

    def __init__(self) -> None:
        self.asked = 0

    def describe(self) -> dict[str, str]:
        return {"model": "small"}

    def list_jobs(self) -> list[dict[str, Any]]:
        self.asked += 1
        return []

    def submit(self, *_: object) -> str:
        self.asked += 1
        return "1"

    def discard(self, job: str) -> None:
        self.asked += 1
        if job == "bug":
            raise ValueError("a name of somebody")


def client(faces: Counted, *hosts: str) -> Any:
    app = app_module.create_app(faces, TOKEN, hosts)
    return testclient.TestClient(
        app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False
    )


REFUSED: list[tuple[Mapping[str, str], int, Mapping[str, str]]] = [
    ({**BEARER, "Host": "evil.example"}, 403, OTHER_HOST),
    ({**BEARER, "Host": "evil.example:8000"}, 403, OTHER_HOST),
    ({**BEARER, "Host": "127.0.0.1.evil.example"}, 403, OTHER_HOST),
    ({**BEARER, "Host": "10.0.0.7:8000"}, 403, OTHER_HOST),
    ({**BEARER, "Host": "[::1"}, 403, OTHER_HOST),
    ({**BEARER, "Host": ""}, 403, OTHER_HOST),
    ({**BEARER, "Origin": "https://evil.example"}, 403, OTHER_ORIGIN),
    ({**BEARER, "Origin": "null"}, 403, OTHER_ORIGIN),
    ({**BEARER, "Origin": "http://127.0.0.1:8001"}, 403, OTHER_ORIGIN),
    ({**BEARER, "Origin": "https://127.0.0.1:8000"}, 403, OTHER_ORIGIN),
    ({**BEARER, "Origin": "http://localhost:8000"}, 403, OTHER_ORIGIN),
    ({**BEARER, "Sec-Fetch-Site": "cross-site"}, 403, OTHER_ORIGIN),
    ({**BEARER, "Sec-Fetch-Site": "same-site"}, 403, OTHER_ORIGIN),
    ({}, 401, NO_TOKEN),
    ({"Authorization": "Bearer "}, 401, NO_TOKEN),
    ({"Authorization": f"Bearer {TOKEN}x"}, 401, NO_TOKEN),
    ({"Authorization": "Bearer \u00e9".encode("latin-1")}, 401, NO_TOKEN),  # type: ignore[dict-item]
    ({"Authorization": f"Basic {TOKEN}"}, 401, NO_TOKEN),
    ({"Cookie": f"token={TOKEN}"}, 401, NO_TOKEN),
]


@pytest.mark.parametrize(("headers", "status", "body"), REFUSED)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/jobs"), ("POST", "/api/jobs?kind=enrol")]
)
def test_refused(
    method: str, path: str, headers: Mapping[str, str], status: int, body: Mapping[str, str]
) -> None:
    faces = Counted()
    answer = client(faces).request(method, path, headers=headers)
    assert (answer.status_code, answer.json()) == (status, body)
    assert faces.asked == 0
    assert_guarded(answer.headers)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"Host": "localhost:1234"},
        {"Host": "127.0.0.1:1234", "Origin": "http://127.0.0.1:1234"},
        {"Host": "[::1]:8000", "Origin": "http://[::1]:8000", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_the_page_itself(more: Mapping[str, str]) -> None:
    faces = Counted()
    answer = client(faces).get("/api/jobs", headers={**BEARER, **more})
    assert (answer.status_code, answer.json(), faces.asked) == (200, {"jobs": []}, 1)
    assert_guarded(answer.headers)


def test_a_chosen_host() -> None:
    headers = {**BEARER, "Host": "10.0.0.7:8000"}
    assert client(Counted(), "10.0.0.7").get("/api/jobs", headers=headers).status_code == 200


def test_the_files_need_no_token_but_the_right_host() -> None:
    page = client(Counted())
    files = {path.name: path.read_bytes() for path in STATIC.iterdir()}
    assert sorted(files) == [
        "icon.svg",
        "index.html",
        "page.css",
        "page.js",
        "photo.js",
        "server.js",
    ]
    for name, content in files.items():
        answer = page.get(f"/{name}")
        assert (answer.status_code, answer.content) == (200, content)
        assert answer.headers["content-type"].split(";")[0] in TYPES[Path(name).suffix]
        assert_guarded(answer.headers)
        assert page.get(f"/{name}", headers={"Host": "evil.example"}).json() == OTHER_HOST
        assert page.get(f"/{name}", headers={"Origin": "http://evil.example"}).status_code == 403
    # A link on another site may lead here.
    assert page.get("/", headers={"Sec-Fetch-Site": "cross-site"}).content == files["index.html"]
    for path in ("/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "/static/", "/page.py"):
        assert page.get(path).status_code == 404


def assert_guarded(headers: Mapping[str, str]) -> None:
    policy = headers["content-security-policy"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert "frame-ancestors 'none'" in policy
    assert not any("unsafe" in rule or "http" in rule for rule in policy)
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_nothing_comes_from_elsewhere() -> None:
    """The page works offline: no address of another host, nothing the policy would forbid."""
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, path
    html = Path(STATIC, "index.html").read_text(encoding="utf-8")
    for forbidden in (" style=", "<style", " onclick=", "<script>", "javascript:"):
        assert forbidden not in html


def test_photos_are_limited_while_they_come() -> None:
    """Without a length to go by, at the first byte too many."""
    came = 0

    def endless() -> Any:
        nonlocal came
        while came < 100:
            came += 1
            yield bytes(1 << 20)

    faces = Counted()
    answer = client(faces).post("/api/jobs?kind=identify", headers=BEARER, content=endless())
    assert (answer.status_code, faces.asked) == (413, 0)
    assert answer.json()["reason"] == "the photo's file is larger than 32 MiB"


def test_bugs_are_told_without_what_they_hold() -> None:
    answer = client(Counted()).delete("/api/jobs/bug", headers=BEARER)
    assert answer.status_code == 500
    assert_guarded(answer.headers)
    assert answer.json() == {
        "code": "internal-error",
        "reason": "the program that serves this page failed (ValueError)",
        "hint": "this is a bug of fhecompile: please report it with what -v prints",
    }
