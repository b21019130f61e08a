"""The service's command lines: who may use it, and where it does not start."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fhecompile.errors import EXIT_BAD_INPUT, EXIT_ENVIRONMENT
from runtime.__main__ import main
from runtime.key_files import make_keys
from runtime.service.folder import ServiceFolder
from runtime.service.store import Store
from tests.service import ROOT, ServerProcess, free_port
from tests.support import convolution_plan, relative_error, run_slots

PLAN = convolution_plan()


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    PLAN.save(tmp_path / "net.fheplan")
    return tmp_path / "net.fheplan"


def serve(tmp_path: Path, plan: Path, *more: str) -> int:
    return main(["serve", "--folder", str(tmp_path / "server"), "--plan", str(plan), *more])


def test_a_token_is_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "server")
    assert main(["add-client", "--folder", folder, "alice"]) == 0
    token = capsys.readouterr().out.strip()
    store = Store(ServiceFolder(tmp_path / "server"))
    found = store.find_client(token)
    assert found is not None and found.name == "alice"
    for path in (tmp_path / "server").rglob("*"):
        assert path.is_dir() or token.encode() not in path.read_bytes()
    assert main(["add-client", "--folder", folder, "alice"]) == EXIT_BAD_INPUT
    assert capsys.readouterr().err == (
        "error: alice: there is a client of this name [client-exists]\n  hint: choose another\n"
    )
    assert main(["remove-client", "--folder", folder, "alice"]) == 0
    assert store.find_client(token) is None
    store.close()
    assert main(["remove-client", "--folder", folder, "alice"]) == EXIT_BAD_INPUT
    assert capsys.readouterr().err == (
        "error: alice: there is no client of this name [no-such-client]\n"
    )


@pytest.mark.parametrize("library", ["uvicorn", "fastapi", "httpx"])
def test_libraries_that_are_not_there(tmp_path: Path, plan_file: Path, library: str) -> None:
    """Told like that, and only when they are needed."""
    pytest.importorskip("uvicorn")
    code = f"""
import sys
sys.modules["{library}"] = None
from fhecompile.plan import Plan
from fhecompile.plan.schema import KeysInfo
from runtime.__main__ import main
from runtime.service.client import ServiceClient
if "{library}" != "httpx":
    sys.exit(main(["serve", "--folder", "server", "--plan", "{plan_file}", "--insecure-toy"]))
from runtime.command import end_command
connect = lambda: ServiceClient("http://h", "t", "{plan_file}", ".", insecure_toy=True)
sys.exit(end_command(connect, False))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == (
        f"error: the service needs {library}, which is not installed [server-missing]\n"
        "  hint: pip install fhecompile[server]\n"
    )
    assert done.returncode == EXIT_ENVIRONMENT
    assert not (tmp_path / "server").exists()


def test_a_secret_key_in_the_folder(
    tmp_path: Path, plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openfhe")
    pytest.importorskip("uvicorn")
    make_keys([PLAN], tmp_path / "keys")
    ServiceFolder(tmp_path / "server")
    for place in ("mine", "incoming/0123", "outputs/7"):
        path = tmp_path / "server" / place
        shutil.copy(tmp_path / "keys/secret.key", path)
        assert serve(tmp_path, plan_file, "--insecure-toy") == EXIT_BAD_INPUT
        assert capsys.readouterr().err.splitlines()[1:] == [
            f"error: {path}: there is a secret key in the server's folder [secret-on-server]",
            "  hint: move it to the client it belongs to; if others could read it here, make new "
            "keys",
        ]
        assert path.read_bytes() == (tmp_path / "keys/secret.key").read_bytes()
        path.unlink()


def test_usage(tmp_path: Path, plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("uvicorn")
    assert serve(tmp_path, plan_file) == EXIT_BAD_INPUT
    assert "[insecure-plan]" in capsys.readouterr().err
    assert serve(tmp_path, plan_file, "--tls-key", "k") == EXIT_BAD_INPUT
    assert capsys.readouterr().err == (
        "error: --tls-certificate and --tls-key need each other [tls-incomplete]\n"
        "  hint: give both\n"
    )
    no = str(tmp_path / "no")
    assert serve(tmp_path, plan_file, "--tls-key", no, "--tls-certificate", no) == EXIT_BAD_INPUT
    assert capsys.readouterr().err == (
        f"error: {no}: the certificate and its key cannot be used (No such file or directory) "
        "[tls-unusable]\n  hint: both are to be PEM files, and belong to each other\n"
    )
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        assert serve(tmp_path, plan_file, "--insecure-toy", "--port", port) == EXIT_BAD_INPUT
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"error: 127.0.0.1, port {port}: cannot listen there (Address already in use) "
        "[cannot-listen]",
        "  hint: choose another place with --host and --port",
    ]
    assert not (tmp_path / "server").exists()


def test_https(tmp_path: Path, plan_file: Path) -> None:
    pytest.importorskip("openfhe")
    pytest.importorskip("uvicorn")
    client_module = pytest.importorskip("runtime.service.client")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    request = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout k.pem"
    subprocess.run(
        [*request.split(), "-out", "c.pem", "-addext", "subjectAltName=DNS:localhost"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    make_keys([PLAN], tmp_path / "keys")
    tls = ("--tls-certificate", str(tmp_path / "c.pem"), "--tls-key", str(tmp_path / "k.pem"))
    server = ServerProcess(tmp_path / "server", (plan_file,), free_port(), options=tls)
    token = server.add_client("alice")
    image = np.random.default_rng(8).uniform(-1, 1, (1, 2, 8, 8))
    server.start()
    try:
        with client_module.ServiceClient(
            f"https://localhost:{server.port}",
            token,
            plan_file,
            tmp_path / "keys",
            certificates=tmp_path / "c.pem",
            insecure_toy=True,
        ) as client:
            client.upload_keys()
            found = client.run({"x": image})["y"]
    finally:
        server.kill()
    assert relative_error(found, run_slots(PLAN, {"x": image})["y"][0]) < 1e-2
