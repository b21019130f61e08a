"""Bundles: what is written is read, and nothing else."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.errors import FheCompileError
from fhecompile.plan.schema import ParametersInfo
from runtime.bundle import MANIFEST, Kind, find_kind, open_bundle, write_bundle

PARAMETERS = ParametersInfo(1024, 3, 59, 60, 1, 128, True)
ENTRIES = {"one": b"the first", "folder/two": bytes(range(256)) * 40, "empty": b""}


def write(
    path: Path, kind: Kind = "inputs", entries: dict[str, bytes] = ENTRIES, **more: Any
) -> Path:
    settings = {"plan": "digest", "samples": 3} | more
    with write_bundle(path, kind, PARAMETERS, "tag", **settings) as writer:
        for name, data in entries.items():
            writer.add(name, data)
    return path


def read(path: Path, kind: Kind = "inputs", plan: str = "digest", key: str = "tag") -> Any:
    with open_bundle(path, kind, PARAMETERS, plan=plan, key=key) as bundle:
        return bundle.manifest, dict(bundle.items())


def check(path: Path) -> None:
    """Like `read`, without keeping anything."""
    with open_bundle(path, "inputs", PARAMETERS, plan="digest", key="tag") as bundle:
        bundle.check()


def refusal(call: Callable[..., Any], *arguments: Any, **more: Any) -> str:
    with pytest.raises(FheCompileError) as caught:
        call(*arguments, **more)
    return str(caught.value)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest, entries = read(write(tmp_path / "x"))
    assert entries == ENTRIES
    assert (manifest.kind, manifest.key, manifest.plan) == ("inputs", "tag", "digest")
    assert (manifest.samples, manifest.parameters) == (3, PARAMETERS)


def test_equal_contents_are_equal_files(tmp_path: Path) -> None:
    assert write(tmp_path / "x").read_bytes() == write(tmp_path / "y").read_bytes()


def test_a_block_that_raises_leaves_what_was_there(tmp_path: Path) -> None:
    path = write(tmp_path / "x")
    before = path.read_bytes()
    with (
        pytest.raises(KeyboardInterrupt),
        write_bundle(path, "outputs", PARAMETERS, "tag") as writer,
    ):
        writer.add("one", b"other")
        raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_names_are_unique(tmp_path: Path) -> None:
    for name in ("one", MANIFEST):
        with (
            pytest.raises(ValueError, match=f"there is an entry {name} already"),
            write_bundle(tmp_path / "x", "inputs", PARAMETERS, "tag") as writer,
        ):
            writer.add("one", b"")
            writer.add(name, b"")


def test_permissions(tmp_path: Path) -> None:
    assert write(tmp_path / "x", mode=0o600).stat().st_mode & 0o777 == 0o600


@given(position=st.integers(0, 12_000), bit=st.integers(0, 7))
def test_a_changed_bit_is_found_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    """Where a zip file repeats itself a flip may change nothing that is read, never a content."""
    path = write(tmp_path_factory.mktemp("flip") / "x")
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << bit
    path.write_bytes(data)
    try:
        manifest, entries = read(path)
    except FheCompileError as error:
        assert error.code in ("not-a-bundle", "bundle-damaged", "bundle-version")
        with pytest.raises(FheCompileError):
            check(path)
    else:
        check(path)
        assert entries == ENTRIES
        assert manifest.samples == 3


@given(length=st.integers(0, 12_000))
def test_a_file_cut_short_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = write(tmp_path_factory.mktemp("cut") / "x")
    data = path.read_bytes()
    path.write_bytes(data[: length % len(data)])
    assert "[not-a-bundle]" in refusal(read, path)


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any], **entries: bytes) -> Path:
    """The bundle with another manifest, and with other entries."""
    with zipfile.ZipFile(path) as archive:
        stored = {name: archive.read(name) for name in archive.namelist()}
    manifest = msgspec.json.decode(stored.pop(MANIFEST))
    change(manifest)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (stored | entries).items():
            archive.writestr(name, data)
        archive.writestr(MANIFEST, msgspec.json.encode(manifest))
    return path


def test_texts(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert refusal(read, path) == (
        f"{path}: cannot read encrypted inputs (No such file or directory) [no-such-file]"
    )
    path.write_bytes(b"x" * 1000)
    not_one = (
        f"{path}: this is no file of keys or ciphertexts, or it was cut short [not-a-bundle]\n"
        "  hint: copy it again, or make it again"
    )
    assert refusal(read, path) == not_one
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.txt", "no bundle")
    assert refusal(read, path) == not_one
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MANIFEST, "[]")
    assert refusal(read, path) == not_one
    assert refusal(read, write(path), kind="evaluation-keys") == (
        f"{path}: this holds encrypted inputs, expected evaluation keys [wrong-bundle]\n"
        "  hint: give the file that the step before has written"
    )
    assert refusal(read, path, plan="other") == (
        f"{path}: encrypted inputs made for another plan [wrong-plan]\n"
        "  hint: encrypt and decrypt with the very plan that is evaluated"
    )
    assert refusal(read, path, key="other") == (
        f"{path}: encrypted inputs made with another key [wrong-key-set]\n"
        "  hint: use the keys of one run of: python -m runtime keygen"
    )
    other = msgspec.structs.replace(PARAMETERS, levels=4)
    assert refusal(open_bundle, path, "inputs", other, plan="digest") == (
        f"{path}: encrypted inputs made for other parameters than the plan's [wrong-parameters]\n"
        "  hint: make keys for this very plan with: python -m runtime keygen"
    )


def test_damage(tmp_path: Path) -> None:
    path = tmp_path / "x"
    hint = " [bundle-damaged]\n  hint: copy it again, or make it again"
    write(path)
    assert refusal(read, rewritten(path, lambda m: None, one=b"the fIrst")) == (
        f"{path}: the file is damaged: the checksum of one does not match{hint}"
    )
    write(path)
    assert refusal(read, rewritten(path, lambda m: None, extra=b"")) == (
        f"{path}: the file is damaged: its entries are not those its manifest lists{hint}"
    )
    write(path)
    assert refusal(read, rewritten(path, lambda m: m["entries"].pop("one"))) == (
        f"{path}: the file is damaged: its entries are not those its manifest lists{hint}"
    )
    write(path)
    assert refusal(read, rewritten(path, lambda m: m.update(kind="other"))) == (
        f"{path}: the file is damaged: its manifest is not readable{hint}"
    )
    write(path)
    assert refusal(read, rewritten(path, lambda m: m.update(version=7))) == (
        f"{path}: the file has format version 7, this version reads 1 [bundle-version]\n"
        "  hint: make it again with this version of fhecompile"
    )
    data = write(path).read_bytes()
    path.write_bytes(data.replace(b"the first", b"the fIrst"))
    assert refusal(read, path) == (f"{path}: the file is damaged: entry one cannot be read{hint}")


def test_a_compressed_entry_is_refused(tmp_path: Path) -> None:
    """Nothing is unpacked: a small file cannot become a large one in memory."""
    path = write(tmp_path / "x", entries={"one": b"0" * 5000})
    with zipfile.ZipFile(path) as archive:
        stored = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in stored.items():
            archive.writestr(name, data)
    assert "[not-a-bundle]" in refusal(read, path) or "[bundle-damaged]" in refusal(read, path)


def test_the_kind_of_any_file(tmp_path: Path) -> None:
    assert find_kind(write(tmp_path / "x", "secret-key")) == "secret-key"
    assert find_kind(tmp_path / "none") is None
    (tmp_path / "text").write_text("secret-key")
    assert find_kind(tmp_path / "text") is None


def test_a_directory_without_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(30_000):
            archive.writestr(f"{number:0100d}", b"")
    assert "[not-a-bundle]" in refusal(read, path)


def test_entries_are_neither_compressed_nor_encrypted(tmp_path: Path) -> None:
    path = write(tmp_path / "x")
    data = bytearray(path.read_bytes())
    for position in (data.rindex(MANIFEST.encode()) - 46 + 8, data.rindex(b"empty") - 46 + 8):
        changed = bytearray(data)
        changed[position] |= 1  # the flag of an encrypted entry in the archive's directory
        path.write_bytes(changed)
        assert refusal(read, path).rpartition("[")[2].startswith(("not-a-bundle", "bundle-damaged"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, b"{}")
    assert "[not-a-bundle]" in refusal(read, path)
