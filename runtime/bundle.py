"""Files of keys and ciphertexts, each a *bundle*: a zip archive of named byte strings.

Entries are stored as they are (ciphertexts look random, nothing compresses them). The last one,
`manifest.json`, says what kind of bundle it is, for which parameters, key and plan its entries were
made, and the size and SHA-256 of each. Every entry is checked before anything is made of it, and
reading takes no more memory than the largest. The checksums find damage; who wrote a bundle is for
whoever hands it over to say.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from fhecompile.errors import FheCompileError
from fhecompile.plan.files import open_atomically
from fhecompile.plan.schema import ParametersInfo, Struct

Kind = Literal[
    "secret-key",
    "public-key",
    "evaluation-keys",
    "inputs",
    "outputs",
    "template",
    "scores",
    "checkpoint",
]
FORMAT = "fhecompile-bundle"
VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_DIRECTORY_BYTES = 1 << 22  # zipfile makes an object of every 50 bytes of an archive's directory
CHUNK_BYTES = 1 << 20
ENCRYPTED = 1  # a zip entry's flag
# What zipfile raises where an archive's structure is damaged or made up.
_UNREADABLE = (
    *(zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError),
    *(zlib.error, struct.error, OverflowError),
)
_DATE = (1980, 1, 1, 0, 0, 0)  # equal contents give equal files
_TITLES: dict[str, str] = {
    "secret-key": "a secret key",
    "public-key": "a public key",
    "evaluation-keys": "evaluation keys",
    "inputs": "encrypted inputs",
    "outputs": "encrypted outputs",
    "template": "a stored template",
    "scores": "encrypted scores",
    "checkpoint": "a checkpoint",
}


class EntryInfo(Struct, frozen=True):
    """Size and SHA-256 of an entry."""

    size: int
    sha256: str


class Manifest(Struct, frozen=True):
    """What a bundle holds.

    `key` is the tag OpenFHE gives a key pair and all that is made with it; `plan` the digest of the
    plan that ciphertexts belong to, empty for keys, which serve every plan of their parameters;
    `samples` the number of samples in ciphertexts, 0 for a single one without an axis of samples.
    """

    format: str
    version: int
    kind: Kind
    parameters: ParametersInfo
    key: str
    plan: str
    samples: int
    entries: dict[str, EntryInfo]


class BundleWriter:
    """Takes the entries of a bundle; see `write_bundle`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.entries: dict[str, EntryInfo] = {}

    def add(self, name: str, data: bytes) -> None:
        """Appends an entry; names are unique."""
        if name in self.entries or name == MANIFEST:
            raise ValueError(f"there is an entry {name} already")
        self.archive.writestr(zipfile.ZipInfo(name, _DATE), data)
        self.entries[name] = EntryInfo(len(data), hashlib.sha256(data).hexdigest())


@contextlib.contextmanager
def write_bundle(
    path: Path,
    kind: Kind,
    parameters: ParametersInfo,
    key: str,
    *,
    plan: str = "",
    samples: int = 0,
    option: str = "--output",
    mode: int = 0o666,
) -> Iterator[BundleWriter]:
    """A writer whose entries are a file when the block ends, and nothing if it raises.

    Args:
        path: the file.
        kind, parameters, key, plan, samples: see `Manifest`.
        option: the command-line option that chooses the file, for the hint of an error.
        mode: permissions of a new file.
    """
    with (
        open_atomically(path, option, mode) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        writer = BundleWriter(archive)
        yield writer
        manifest = Manifest(FORMAT, VERSION, kind, parameters, key, plan, samples, writer.entries)
        archive.writestr(zipfile.ZipInfo(MANIFEST, _DATE), msgspec.json.encode(manifest))


class Bundle:
    """A bundle opened to read; a context manager. Made by `open_bundle`."""

    def __init__(
        self, path: Path, file: BinaryIO, archive: zipfile.ZipFile, manifest: Manifest
    ) -> None:
        self.path, self.file, self.archive, self.manifest = path, file, archive, manifest

    def read(self, name: str) -> bytes:
        """An entry's bytes, as they were written."""
        info = self.manifest.entries[name]
        try:
            data = self.archive.read(name)
        except _UNREADABLE as error:
            raise _damaged(self.path, f"entry {name} cannot be read") from error
        if len(data) != info.size or hashlib.sha256(data).hexdigest() != info.sha256:
            raise _damaged(self.path, f"the checksum of {name} does not match")
        return data

    def items(self) -> Iterator[tuple[str, bytes]]:
        """All entries, one in memory at a time."""
        for name in self.manifest.entries:
            yield name, self.read(name)

    def check(self) -> None:
        """Raises when an entry is damaged; takes no more memory than a chunk."""
        for name, info in self.manifest.entries.items():
            digest = hashlib.sha256()
            try:
                with self.archive.open(name) as entry:
                    while chunk := entry.read(CHUNK_BYTES):
                        digest.update(chunk)
            except _UNREADABLE as error:
                raise _damaged(self.path, f"entry {name} cannot be read") from error
            if digest.hexdigest() != info.sha256:
                raise _damaged(self.path, f"the checksum of {name} does not match")

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self.archive.close()
        self.file.close()


def open_bundle(
    path: Path, kind: Kind, parameters: ParametersInfo, *, plan: str = "", key: str = ""
) -> Bundle:
    """Opens a bundle that is to be of this kind and for these parameters.

    Args:
        path: the file.
        kind: what is expected.
        parameters: the parameters of the plan it is used with.
        plan: the digest its ciphertexts are to belong to; empty for keys.
        key: the tag its key is to have; empty: any.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise FheCompileError(
            "no-such-file",
            f"cannot read {_TITLES[kind]} ({error.strerror or error})",
            node=str(path),
        ) from error
    with contextlib.ExitStack() as stack:
        stack.callback(file.close)
        archive, manifest = _open_archive(path, file)
        _check_purpose(path, manifest, kind, parameters, plan, key)
        stack.pop_all()
    return Bundle(path, file, archive, manifest)


def find_kind(path: Path) -> Kind | None:
    """What a file's bundle holds; None: it is no readable bundle."""
    try:
        with path.open("rb") as file:
            return _open_archive(path, file)[1].kind
    except (FheCompileError, OSError):
        return None


class _BoundedReader(io.BufferedReader):
    """Refuses to read much at once until it is told that the archive's directory is read."""

    bounded = True

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.bounded:
            return super().read(size)
        limit = MAX_DIRECTORY_BYTES + 1
        data = super().read(limit if size is None or size < 0 else min(size, limit))
        if len(data) > MAX_DIRECTORY_BYTES:
            raise ValueError("the directory is too large")
        return data


def _open_archive(path: Path, file: BinaryIO) -> tuple[zipfile.ZipFile, Manifest]:
    try:
        reader = _BoundedReader(io.FileIO(file.fileno(), closefd=False))
        archive = zipfile.ZipFile(reader)
        reader.bounded = False
        found = {info.filename: info for info in archive.infolist() if _is_plain(info)}
        if MANIFEST not in found or found[MANIFEST].file_size > MAX_MANIFEST_BYTES:
            raise _not_a_bundle(path)
        text = archive.read(MANIFEST)
    except _UNREADABLE as error:
        raise _not_a_bundle(path) from error
    manifest = _decode(path, text)
    stored = {name: info.file_size for name, info in found.items()}
    stored.pop(MANIFEST, None)
    if (
        stored != {name: info.size for name, info in manifest.entries.items()}
        or len(archive.infolist()) != len(stored) + 1
    ):
        raise _damaged(path, "its entries are not those its manifest lists")
    return archive, manifest


def _is_plain(info: zipfile.ZipInfo) -> bool:
    return info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & ENCRYPTED


def _decode(path: Path, text: bytes) -> Manifest:
    try:
        head: Any = msgspec.json.decode(text)
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise _not_a_bundle(path)
        if head.get("version") != VERSION:
            raise FheCompileError(
                "bundle-version",
                f"the file has format version {head.get('version')}, this version reads {VERSION}",
                node=str(path),
                hint="make it again with this version of fhecompile",
            )
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, "its manifest is not readable") from error


def _check_purpose(
    path: Path, manifest: Manifest, kind: Kind, parameters: ParametersInfo, plan: str, key: str
) -> None:
    if manifest.kind != kind:
        raise FheCompileError(
            "wrong-bundle",
            f"this holds {_TITLES[manifest.kind]}, expected {_TITLES[kind]}",
            node=str(path),
            hint="give the file that the step before has written",
        )
    if manifest.parameters != parameters:
        raise FheCompileError(
            "wrong-parameters",
            f"{_TITLES[kind]} made for other parameters than the plan's",
            node=str(path),
            hint="make keys for this very plan with: python -m runtime keygen",
        )
    if manifest.plan != plan:
        raise FheCompileError(
            "wrong-plan",
            f"{_TITLES[kind]} made for another plan",
            node=str(path),
            hint="encrypt and decrypt with the very plan that is evaluated",
        )
    if key and manifest.key != key:
        raise FheCompileError(
            "wrong-key-set",
            f"{_TITLES[kind]} made with another key",
            node=str(path),
            hint="use the keys of one run of: python -m runtime keygen",
        )


def _not_a_bundle(path: Path) -> FheCompileError:
    return FheCompileError(
        "not-a-bundle",
        "this is no file of keys or ciphertexts, or it was cut short",
        node=str(path),
        hint="copy it again, or make it again",
    )


def _damaged(path: Path, reason: str) -> FheCompileError:
    return FheCompileError(
        "bundle-damaged",
        f"the file is damaged: {reason}",
        node=str(path),
        hint="copy it again, or make it again",
    )
