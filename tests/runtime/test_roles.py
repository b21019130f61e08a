"""The roles as programs that share only files."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from runtime import key_files
from runtime.__main__ import main
from runtime.bundle import MANIFEST
from runtime.key_files import load_evaluation_keys, load_secret, make_keys
from runtime.roles import decrypt_file, encrypt_file, evaluate_file
from tests.support import convolution_plan, relative_error, run_slots

pytest.importorskip("openfhe", reason="OpenFHE is not installed")

PLAN = convolution_plan()
IMAGES = np.random.default_rng(5).uniform(-1, 1, (2, 1, 2, 8, 8))
EXPECTED = run_slots(PLAN, {"x": IMAGES})["y"]


@dataclass(frozen=True)
class Files:
    """A folder with a plan, its keys, and encrypted inputs and outputs of two images."""

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Files:
    files = Files(tmp_path_factory.mktemp("roles"))
    PLAN.save(files / "net.fheplan")
    make_keys([PLAN], files / "keys")
    make_keys([PLAN], files / "others")
    encrypt_file(PLAN, files / "keys/public.key", {"x": IMAGES}, files / "x.fhe")
    evaluate_file(PLAN, files / "keys/evaluation.keys", files / "x.fhe", files / "y.fhe")
    return files


def refusal(call: Callable[..., Any], *arguments: Any, **more: Any) -> str:
    with pytest.raises(FheCompileError) as caught:
        call(*arguments, **more)
    return str(caught.value)


def test_the_answer(made: Files) -> None:
    found = decrypt_file(PLAN, made / "keys/secret.key", made / "y.fhe")["y"]
    assert found.shape == EXPECTED[:, 0].shape
    assert relative_error(found, EXPECTED[:, 0]) < 1e-2


def test_a_single_sample_has_no_axis_of_samples(made: Files, tmp_path: Path) -> None:
    encrypt_file(PLAN, made / "keys/public.key", {"x": IMAGES[0]}, tmp_path / "x")
    evaluate_file(PLAN, made / "keys/evaluation.keys", tmp_path / "x", tmp_path / "y", threads=1)
    found = decrypt_file(PLAN, made / "keys/secret.key", tmp_path / "y")["y"]
    assert found.shape == EXPECTED[0].shape
    assert relative_error(found, EXPECTED[0]) < 1e-2


def test_the_roles_are_programs(made: Files, tmp_path: Path) -> None:
    """Each in a process of its own; the server's folder holds no secret key."""
    client, server = tmp_path / "client", tmp_path / "server"
    for folder in (client, server):
        folder.mkdir()
        shutil.copy(made / "net.fheplan", folder)
    np.savez(client / "x.npz", x=IMAGES)

    def call(folder: Path, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "runtime", *arguments, "--insecure-toy"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == (
            "warning: this plan is INSECURE: its ring is a toy, for tests only\n"
        )
        return done.stdout

    said = call(client, "keygen", "net.fheplan", "--out", "keys")
    assert [line.split(" (")[0] for line in said.splitlines()[1:]] == [
        f"written: keys/{name}" for name in ("secret.key", "public.key", "evaluation.keys")
    ]
    said = call(
        *(client, "encrypt", "net.fheplan", "--key", "keys/public.key"),
        *("--input", "x.npz", "--output", "x.fhe"),
    )
    assert said.startswith("2 samples encrypted\nwritten: x.fhe (")
    for name in ("keys/evaluation.keys", "x.fhe"):
        (client / name).rename(server / Path(name).name)
    said = call(
        *(server, "evaluate", "net.fheplan", "--key", "evaluation.keys"),
        *("--input", "x.fhe", "--output", "y.fhe"),
    )
    assert said.splitlines()[1].startswith("written: y.fhe (")
    (server / "y.fhe").rename(client / "y.fhe")
    said = call(
        *(client, "decrypt", "net.fheplan", "--key", "keys/secret.key"),
        *("--input", "y.fhe", "--output", "y.npz"),
    )
    assert said == "written: y.npz\n"
    with np.load(client / "y.npz") as found:
        assert relative_error(found["y"], EXPECTED[:, 0]) < 1e-2


def test_the_secret_is_only_in_its_file(made: Files) -> None:
    with zipfile.ZipFile(made / "keys/secret.key") as archive:
        secret = archive.read("secret")
    assert len(secret) > 1000
    for name in ("keys/public.key", "keys/evaluation.keys", "x.fhe", "y.fhe"):
        assert secret[-500:] not in (made / name).read_bytes()
    assert secret[-500:] in (made / "keys/secret.key").read_bytes()
    assert (made / "keys/secret.key").stat().st_mode & 0o077 == 0
    assert (made / "keys").stat().st_mode & 0o077 == 0


def test_keys_are_released(made: Files) -> None:
    server = load_evaluation_keys(PLAN, made / "keys/evaluation.keys")
    assert server.missing_keys(PLAN.program.keys) == []
    server.release()
    assert len(server.missing_keys(PLAN.program.keys)) == len(PLAN.program.keys.rotations) + 2


def test_wrong_files(made: Files, tmp_path: Path) -> None:
    keys, others, out = made / "keys", made / "others", tmp_path / "out"
    text = refusal(evaluate_file, PLAN, others / "evaluation.keys", made / "x.fhe", out)
    assert text == (
        f"{made / 'x.fhe'}: encrypted inputs made with another key [wrong-key-set]\n"
        "  hint: use the keys of one run of: python -m runtime keygen"
    )
    text = refusal(decrypt_file, PLAN, others / "secret.key", made / "y.fhe")
    assert "encrypted outputs made with another key [wrong-key-set]" in text
    text = refusal(evaluate_file, PLAN, keys / "secret.key", made / "x.fhe", out)
    assert "this holds a secret key, expected evaluation keys [wrong-bundle]" in text
    text = refusal(evaluate_file, PLAN, keys / "evaluation.keys", made / "y.fhe", out)
    assert "this holds encrypted outputs, expected encrypted inputs [wrong-bundle]" in text
    other = convolution_plan(512)
    text = refusal(encrypt_file, other, keys / "public.key", {"x": IMAGES}, out)
    assert "a public key made for other parameters than the plan's [wrong-parameters]" in text
    named = Plan(msgspec.structs.replace(PLAN.program, model_name="another"), PLAN.arrays)
    text = refusal(evaluate_file, named, keys / "evaluation.keys", made / "x.fhe", out)
    assert "encrypted inputs made for another plan [wrong-plan]" in text
    assert not out.exists()


def altered(path: Path, to: Path, change: Callable[[dict[str, bytes], Any], None]) -> Path:
    """A bundle with other entries, whose manifest is true again."""
    with zipfile.ZipFile(path) as archive:
        stored = {name: archive.read(name) for name in archive.namelist()}
    manifest = msgspec.json.decode(stored.pop(MANIFEST))
    change(stored, manifest)
    manifest["entries"] = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in stored.items()
    }
    with zipfile.ZipFile(to, "w") as archive:
        for name, data in stored.items():
            archive.writestr(name, data)
        archive.writestr(MANIFEST, msgspec.json.encode(manifest))
    return to


def test_forged_ciphertexts(made: Files, tmp_path: Path) -> None:
    """Files whose checksums are right and whose contents are not."""
    part = "batch-0/tensor-0/part-0"
    keys, out = made / "keys/evaluation.keys", tmp_path / "out"
    with zipfile.ZipFile(made / "y.fhe") as archive:
        output = archive.read(part)
    encrypt_file(PLAN, made / "others/public.key", {"x": IMAGES}, tmp_path / "foreign")
    with zipfile.ZipFile(tmp_path / "foreign") as archive:
        foreign = archive.read(part)

    def cut(entries: dict[str, bytes], _: Any) -> None:
        entries[part] = entries[part][:-100]

    def spoil(entries: dict[str, bytes], _: Any) -> None:
        entries[part] = b"\xff" * 1000

    def empty(entries: dict[str, bytes], _: Any) -> None:
        entries[part] = bytes(1000)

    def replace_by(data: bytes) -> Callable[[dict[str, bytes], Any], None]:
        return lambda entries, _: entries.__setitem__(part, data)

    def drop(entries: dict[str, bytes], _: Any) -> None:
        del entries[part]

    def count_more(_: dict[str, bytes], manifest: Any) -> None:
        manifest["samples"] = 10**9

    forged = tmp_path / "x"
    unreadable = (
        f"{forged}: {part}: OpenFHE cannot read it [wrong-ciphertext]\n"
        "  hint: make it again with the same version of OpenFHE"
    )
    cases = {
        cut: unreadable,
        spoil: unreadable,
        empty: (
            f"{forged}: {part}: it was made with another key than its file says [wrong-key-set]\n"
            "  hint: use the keys of one run of: python -m runtime keygen"
        ),
        replace_by(foreign): (
            f"{forged}: {part}: it was made with another key than its file says [wrong-key-set]\n"
            "  hint: use the keys of one run of: python -m runtime keygen"
        ),
        drop: (
            f"{forged}: its ciphertexts are not the inputs of 2 batches [wrong-ciphertext]\n"
            "  hint: encrypt with the very plan that is evaluated"
        ),
        count_more: (
            f"{forged}: its ciphertexts are not the inputs of 1000000000 batches "
            "[wrong-ciphertext]\n  hint: encrypt with the very plan that is evaluated"
        ),
    }
    for change, text in cases.items():
        altered(made / "x.fhe", forged, change)
        assert refusal(evaluate_file, PLAN, keys, forged, out) == text
    altered(made / "x.fhe", forged, replace_by(output))
    assert "expected 2 at level 0 [wrong-ciphertext]" in refusal(
        evaluate_file, PLAN, keys, forged, out
    )
    assert not out.exists()


def test_forged_keys(made: Files, tmp_path: Path) -> None:
    keys = made / "keys/evaluation.keys"
    with zipfile.ZipFile(made / "others/evaluation.keys") as archive:
        foreign = archive.read("relinearisation")

    def swap(entries: dict[str, bytes], _: Any) -> None:
        entries["relinearisation"] = foreign

    def drop(entries: dict[str, bytes], _: Any) -> None:
        del entries["relinearisation"]

    forged = altered(keys, tmp_path / "keys", swap)
    assert refusal(load_evaluation_keys, PLAN, forged) == (
        f"{forged}: relinearisation: it was made with another key than its file says "
        "[wrong-key-set]\n  hint: use the keys of one run of: python -m runtime keygen"
    )
    forged = altered(keys, tmp_path / "keys", drop)
    assert refusal(evaluate_file, PLAN, forged, made / "x.fhe", tmp_path / "out") == (
        "1 evaluation keys are missing: relinearisation [evaluation-key-missing]\n"
        "  hint: generate the keys for this very plan"
    )

    def empty(entries: dict[str, bytes], _: Any) -> None:
        entries["conjugation"] = bytes(1000)

    forged = altered(keys, tmp_path / "keys", empty)
    assert refusal(load_evaluation_keys, PLAN, forged) == (
        f"{forged}: conjugation: OpenFHE cannot read it [wrong-ciphertext]\n"
        "  hint: make it again with the same version of OpenFHE"
    )

    def swap_secret(entries: dict[str, bytes], _: Any) -> None:
        with zipfile.ZipFile(made / "others/secret.key") as archive:
            entries["secret"] = archive.read("secret")

    forged = altered(made / "keys/secret.key", tmp_path / "secret", swap_secret)
    assert refusal(load_secret, PLAN, forged) == (
        f"{forged}: it was made with another key than its file says [wrong-key-set]\n"
        "  hint: use the keys of one run of: python -m runtime keygen"
    )


def test_keys_are_never_overwritten(made: Files) -> None:
    before = (made / "keys/secret.key").read_bytes()
    assert refusal(make_keys, [PLAN], made / "keys") == (
        f"{made / 'keys'}: there is something already, and keys are not overwritten [keys-exist]\n"
        "  hint: choose a new folder with --out, or remove it if its keys are no longer needed"
    )
    assert (made / "keys/secret.key").read_bytes() == before


def test_keys_of_several_plans(made: Files, tmp_path: Path) -> None:
    fewer = msgspec.structs.replace(PLAN.program.keys, rotations=(3,), conjugation=False)
    other = Plan(msgspec.structs.replace(PLAN.program, keys=fewer), PLAN.arrays)
    make_keys([PLAN, other], tmp_path / "keys")
    server = load_evaluation_keys(other, tmp_path / "keys/evaluation.keys")
    assert server.missing_keys(fewer) == []
    server.release()
    server = load_evaluation_keys(PLAN, tmp_path / "keys/evaluation.keys")
    assert server.missing_keys(PLAN.program.keys) == []
    server.release()
    assert refusal(make_keys, [PLAN, convolution_plan(512)], tmp_path / "more") == (
        "the plans have different parameters [wrong-parameters]\n"
        "  hint: make keys for each of them, or compile them together"
    )


def test_a_place_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(make_keys, [PLAN], tmp_path / "no/keys") == (
        f"{tmp_path / 'no/keys'}: cannot make the folder (there is no folder {tmp_path / 'no'}) "
        "[cannot-write]\n  hint: choose another place with --out"
    )
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(key_files.shutil, "disk_usage", lambda _: usage)
    big = msgspec.structs.replace(PLAN.program.keys, rotations=tuple(range(1, 10**5)))
    text = refusal(
        make_keys, [Plan(msgspec.structs.replace(PLAN.program, keys=big), PLAN.arrays)], tmp_path
    )
    assert text.startswith(f"{tmp_path}: the evaluation keys take ")
    assert text.endswith(
        " GiB, 0.0 GiB are free [disk-full]\n"
        "  hint: choose another place with --out, or compile with fewer keys (--max-keys)"
    )


def test_an_interrupt_leaves_no_keys(tmp_path: Path) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_keys([PLAN], tmp_path / "keys", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_progress_for_programs(
    made: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(made / "net.fheplan"), "--insecure-toy", "--progress", "json"]
    command += ["--key", str(made / "keys/evaluation.keys"), "--input", str(made / "x.fhe")]
    assert main([*command, "--output", str(tmp_path / "y.fhe")]) == 0
    said = [msgspec.json.decode(line) for line in capsys.readouterr().out.splitlines()]
    shares = [line.pop("progress") for line in said]
    left = [line.pop("seconds_left") for line in said]
    assert not any(said)
    assert min(left) >= 0.0 == left[-1]
    assert shares == sorted(set(shares)) and len(shares) > 5 and shares[-1] == 1.0
    found = decrypt_file(PLAN, made / "keys/secret.key", tmp_path / "y.fhe")["y"]
    assert relative_error(found, EXPECTED[:, 0]) < 1e-2


def test_an_insecure_plan_is_refused(made: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", str(made / "net.fheplan"), "--out", str(made / "insecure")]) == 2
    assert "[insecure-plan]" in capsys.readouterr().err
    assert not (made / "insecure").exists()
