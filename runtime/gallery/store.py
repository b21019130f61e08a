"""A gallery on disk: a folder with a file per template, which nothing but that file depends on.

`NAME.template` is a bundle (`runtime.bundle`) with one ciphertext, the template already at its
place, so that the sum of a group's files is the ciphertext that is matched against. Adding writes
one file and removing deletes one; the others are not touched. A file appears as a whole or not at
all, and is checked whenever it is read. One process changes a gallery at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from fhecompile.plan.files import make_folder
from runtime.bundle import open_bundle, write_bundle
from runtime.gallery.programs import check_template_plan, output_type, places_of
from runtime.keys import ServerContext
from runtime.library import wrapped
from runtime.serialization import read_ciphertext, to_bytes

SUFFIX = ".template"
LOCK = "lock"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Entry:
    """A stored template: its name, and its place counted over all ciphertexts."""

    name: str
    place: int


class Gallery:
    """The templates of one client that one plan has made.

    Args:
        folder: where they are; made when the first is added.
        plan: the plan, compiled with `--match gallery`.
        key_tag: the client's key.
    """

    def __init__(self, folder: Path, plan: Plan, key_tag: str) -> None:
        check_template_plan(plan)
        self.folder, self.plan, self.key_tag = folder, plan, key_tag
        self.places = places_of(plan)

    def entries(self) -> list[Entry]:
        """All stored templates, by place; every file's header is checked."""
        found: dict[int, str] = {}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            with self._open(path) as bundle:
                _enter(found, path, _single_place(path, bundle.manifest.entries))
        return [Entry(found[place], place) for place in sorted(found)]

    def free_places(self) -> Iterator[int]:
        """Places that are not taken now, the lowest first."""
        taken = {entry.place for entry in self.entries()}
        return (place for place in itertools.count() if place not in taken)

    def check_free(self, name: str) -> None:
        """Raises when a template cannot be stored under this name."""
        if not _NAME.fullmatch(name):
            raise FheCompileError(
                "template-name",
                f"{name!r} cannot be the name of a template",
                hint="use up to 100 letters, digits, dots, dashes and underscores",
            )
        if self.path(name).exists():
            raise FheCompileError(
                "template-exists",
                f"there is a template {name} already",
                node=str(self.folder),
                hint="choose another name, or remove it first",
            )

    def add(self, name: str, place: int, placed: Any) -> None:
        """Stores a template that has been brought to its place; call it under `changing`."""
        self.check_free(name)
        with write_bundle(
            self.path(name),
            "template",
            self.plan.program.parameters,
            self.key_tag,
            plan=self.plan.digest,
            option="--gallery",
        ) as writer:
            writer.add(f"place-{place}", to_bytes(placed))

    def remove(self, name: str) -> None:
        """Deletes a template; the others stay as they are."""
        with self.changing():
            self._existing(name).unlink()

    def sums(
        self, context: ServerContext, names: list[str] | None = None
    ) -> tuple[dict[int, Any], dict[str, int]]:
        """(sum of the templates of each group by its number, place by name).

        Args:
            context: of the client's evaluation keys.
            names: the templates wanted; None: all.
        """
        if names is None:
            paths = sorted(self.folder.glob(f"*{SUFFIX}"))
        else:
            paths = [self._existing(name) for name in dict.fromkeys(names)]
        totals: dict[int, Any] = {}
        found: dict[int, str] = {}
        for path in paths:
            place, ciphertext = self._read(path, context)
            _enter(found, path, place)
            group = place // self.places
            if group in totals:
                with wrapped("adding templates"):
                    context.context.EvalAddInPlace(totals[group], ciphertext)
            else:
                totals[group] = ciphertext
        return totals, {name: place for place, name in found.items()}

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Keeps other processes from changing the gallery."""
        make_folder(self.folder, "--gallery")
        with open(self.folder / LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def path(self, name: str) -> Path:
        """The file of a template."""
        return self.folder / f"{name}{SUFFIX}"

    def _open(self, path: Path) -> Any:
        parameters, digest = self.plan.program.parameters, self.plan.digest
        return open_bundle(path, "template", parameters, plan=digest, key=self.key_tag)

    def _read(self, path: Path, context: ServerContext) -> tuple[int, Any]:
        """The place and the ciphertext of a template."""
        level, _ = output_type(self.plan)
        with self._open(path) as bundle:
            place = _single_place(path, bundle.manifest.entries)
            data = bundle.read(f"place-{place}")
        return place, read_ciphertext(data, str(path), context.context, self.key_tag, level)

    def _existing(self, name: str) -> Path:
        """The file of a template that is there; what is no name is not taken for a path."""
        path = self.path(name)
        if _NAME.fullmatch(name) and path.exists():
            return path
        raise FheCompileError(
            "no-such-template",
            f"there is no template {name}",
            node=str(self.folder),
            hint="list the names with: python -m runtime gallery",
        )


def _enter(found: dict[int, str], path: Path, place: int) -> None:
    """Notes whose template is at a place."""
    if place in found:
        raise _damaged(path, f"it is at the place of {found[place]}")
    found[place] = path.name.removesuffix(SUFFIX)


def _single_place(path: Path, entries: Mapping[str, Any]) -> int:
    match = re.fullmatch(r"place-(\d{1,7})", next(iter(entries), ""))
    if len(entries) != 1 or match is None:
        raise _damaged(path, "it does not hold one template")
    return int(match[1])


def _damaged(path: Path, reason: str) -> FheCompileError:
    return FheCompileError(
        "template-damaged",
        f"the template is damaged: {reason}",
        node=str(path),
        hint="remove it and enrol again",
    )
