"""Stored templates as files, wherever they are: written at their place, read, added up.

A template is a bundle (`runtime.bundle`) with one ciphertext, which is at its place already: the
sum of a group's files is the ciphertext that is matched against. A file appears as a whole or not
at all, and is checked whenever it is read. Who keeps the files says which name and which place each
of them has: a folder (`runtime.gallery.store`), or a list made for one call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from fhecompile.plan.files import write_atomically
from runtime.bundle import Bundle, open_bundle, write_bundle
from runtime.gallery.programs import check_template_plan, output_type, places_of
from runtime.keys import ServerContext
from runtime.library import wrapped
from runtime.serialization import read_ciphertext, to_bytes

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class _Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    place: Annotated[int, msgspec.Meta(ge=0, lt=10**7)]
    path: str


@dataclass(frozen=True)
class Entry:
    """A stored template: its name, its place counted over all ciphertexts, and its file."""

    name: str
    place: int
    path: Path


class TemplateFiles:
    """Reads and writes the templates of one client that one plan has made.

    Args:
        plan: the plan, compiled with `--match gallery`.
        key_tag: the client's key.
    """

    def __init__(self, plan: Plan, key_tag: str) -> None:
        check_template_plan(plan)
        self.plan, self.key_tag = plan, key_tag
        self.places = places_of(plan)
        self._level, _ = output_type(plan)

    def write(self, entry: Entry, placed: Any) -> None:
        """Stores a template that has been brought to its place."""
        with write_bundle(
            entry.path,
            "template",
            self.plan.program.parameters,
            self.key_tag,
            plan=self.plan.digest,
            option="--gallery",
        ) as writer:
            writer.add(f"place-{entry.place}", to_bytes(placed))

    def place(self, path: Path) -> int:
        """The place that a file's header says."""
        with self._open(path) as bundle:
            return _single_place(bundle)

    def check(self, entry: Entry) -> None:
        """Raises when a file is damaged, or not that of this place."""
        with self._open(entry.path) as bundle:
            _check_place(bundle, entry)
            bundle.check()

    def sums(self, context: ServerContext, entries: Iterable[Entry]) -> dict[int, Any]:
        """Sum of the templates of each group by its number.

        Args:
            context: of the client's evaluation keys.
            entries: the templates, of different places.
        """
        totals: dict[int, Any] = {}
        for entry in entries:
            ciphertext = self._read(entry, context)
            group = entry.place // self.places
            if group in totals:
                with wrapped("adding templates"):
                    context.context.EvalAddInPlace(totals[group], ciphertext)
            else:
                totals[group] = ciphertext
        return totals

    def _open(self, path: Path) -> Bundle:
        parameters, digest = self.plan.program.parameters, self.plan.digest
        return open_bundle(path, "template", parameters, plan=digest, key=self.key_tag)

    def _read(self, entry: Entry, context: ServerContext) -> Any:
        with self._open(entry.path) as bundle:
            _check_place(bundle, entry)
            data = bundle.read(f"place-{entry.place}")
        return read_ciphertext(data, str(entry.path), context.context, self.key_tag, self._level)


def check_name(name: str) -> None:
    """Raises when this is no name for a template."""
    if not _NAME.fullmatch(name):
        raise FheCompileError(
            "template-name",
            f"{name!r} cannot be the name of a template",
            hint="use up to 100 letters, digits, dots, dashes and underscores",
        )


def check_names(names: Sequence[str], count: int, what: str, node: str = "") -> None:
    """Raises unless there is a name of its own for each of `count` templates or images."""
    for name in names:
        check_name(name)
    if len(names) != count or len(set(names)) != count:
        raise FheCompileError(
            "template-name",
            f"there are {count} {what} and {len(set(names))} different names",
            node=node,
            hint="give one name for each",
        )


def check_probe(count: int, what: str, node: str = "") -> None:
    """Raises unless there is one template or image to compare."""
    if count != 1:
        raise FheCompileError(
            "one-probe",
            f"there are {count} {what}, one is compared at a time",
            node=node,
            hint="encrypt one image",
        )


def write_list(path: Path, entries: Iterable[Entry]) -> None:
    """Writes which templates a call is to work on: a JSON list of {"name", "place", "path"}."""
    listed = [{"name": e.name, "place": e.place, "path": str(e.path)} for e in entries]
    write_atomically(path, msgspec.json.encode(listed), "--list")


def read_list(path: Path) -> list[Entry]:
    """What `write_list` has written; names, places and files are different ones."""
    try:
        listed = msgspec.json.decode(path.read_bytes(), type=list[_Listed])
        for attribute in ("name", "place", "path"):
            if len({getattr(item, attribute) for item in listed}) < len(listed):
                raise ValueError(f"the same {attribute} twice")
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise FheCompileError(
            "list-unreadable",
            "this is no list of templates",
            node=str(path),
            hint='it is JSON: [{"name": NAME, "place": NUMBER, "path": FILE}, ...]',
        ) from error
    return [Entry(item.name, item.place, Path(item.path)) for item in listed]


def _single_place(bundle: Bundle) -> int:
    entries = bundle.manifest.entries
    match = re.fullmatch(r"place-(\d{1,7})", next(iter(entries), ""))
    if len(entries) != 1 or match is None:
        raise damaged(bundle.path, "it does not hold one template")
    return int(match[1])


def _check_place(bundle: Bundle, entry: Entry) -> None:
    if _single_place(bundle) != entry.place:
        raise damaged(bundle.path, "it is that of another place")


def damaged(path: Path, reason: str) -> FheCompileError:
    """A template's file is not what it is to be."""
    return FheCompileError(
        "template-damaged",
        f"the template is damaged: {reason}",
        node=str(path),
        hint="remove it and enrol again",
    )
