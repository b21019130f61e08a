"""The gallery's command lines: enrol, identify, scores, gallery, remove."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from runtime.bundle import open_bundle
from runtime.command import add_process_options, reporting
from runtime.gallery.roles import enrol_file, identify_file, read_scores
from runtime.gallery.store import Gallery
from runtime.gallery.templates import Entry, read_list

Role = Callable[[argparse.Namespace], None]
AddRole = Callable[[str, Role, str], argparse.ArgumentParser]
LoadPlan = Callable[[argparse.Namespace, Path], Plan]


def add_roles(add_role: AddRole, load: LoadPlan) -> None:
    """Adds the commands.

    Args:
        add_role: makes the parser of a command from its name, what it does, and a line of help.
        load: reads a plan as the options allow.
    """

    def plan_and(role: Callable[[argparse.Namespace, Plan], None]) -> Role:
        return lambda options: role(options, load(options, options.plan))

    enrol = add_role("enrol", plan_and(_enrol), "stores encrypted templates in a gallery")
    _arguments(enrol, "evaluation.keys", "encrypted images, or templates from `evaluate`")
    enrol.add_argument("--name", action="append", metavar="NAME", help="one per template")

    identify = add_role("identify", plan_and(_identify), "compares a template with a gallery")
    _arguments(identify, "evaluation.keys", "one encrypted image, or a template from `evaluate`")
    identify.add_argument(
        "--name", action="append", metavar="NAME", help="compare with these; default: all"
    )
    identify.add_argument("--output", required=True, type=Path, metavar="FILE", help="to write")
    for parser in (enrol, identify):
        add_process_options(parser)

    scores = add_role("scores", plan_and(_scores), "decrypts the scores of a comparison")
    _arguments(scores, "secret.key", "encrypted scores, from `identify`", gallery=())
    scores.add_argument("--json", action="store_true", help="scores by name as JSON")

    listing = add_role("gallery", plan_and(_list), "lists the names in a gallery")
    _arguments(listing, "evaluation.keys", "", gallery=("--gallery",))

    remove = add_role("remove", plan_and(_remove), "removes a template from a gallery")
    _arguments(remove, "evaluation.keys", "", gallery=("--gallery",))
    remove.add_argument("--name", required=True, metavar="NAME", help="which")


def _arguments(
    parser: argparse.ArgumentParser,
    key: str,
    what: str,
    gallery: tuple[str, ...] = ("--gallery", "--list"),
) -> None:
    add = parser.add_argument
    add("plan", type=Path, metavar="PLAN", help="the plan, compiled with --match gallery")
    add("--key", required=True, type=Path, metavar="FILE", help=key)
    if what:
        add("--input", required=True, type=Path, metavar="FILE", help=what)
    if gallery:
        where = parser.add_mutually_exclusive_group(required=True)
        where.add_argument("--gallery", type=Path, metavar="DIR", help="the gallery's folder")
    if "--list" in gallery:
        text = 'instead: JSON, [{"name": NAME, "place": NUMBER, "path": FILE}, ...]'
        where.add_argument("--list", type=Path, metavar="FILE", help=text)


def _where(options: argparse.Namespace) -> Path | list[Entry]:
    """The gallery of a command line; the names are in a list, or are given for a folder."""
    if options.list is None:
        folder: Path = options.gallery
        return folder
    if options.name:
        raise FheCompileError(
            "template-name", "--name and --list exclude each other", hint="leave --name out"
        )
    return read_list(options.list)


def _enrol(options: argparse.Namespace, plan: Plan) -> None:
    gallery, names = _where(options), options.name or []
    with reporting(options, "enrolling") as (report, say):
        enrol_file(plan, options.key, options.input, gallery, names, progress=report.update)
        if isinstance(gallery, list):
            names = [entry.name for entry in gallery]
        say(f"stored in {options.gallery or options.list}: {', '.join(names)}")


def _identify(options: argparse.Namespace, plan: Plan) -> None:
    gallery = _where(options)
    with reporting(options, "comparing") as (report, say):
        count = identify_file(
            *(plan, options.key, options.input, gallery, options.output, options.name),
            progress=report.update,
        )
        say(f"compared with {count} templates\nwritten: {options.output}")


def _scores(options: argparse.Namespace, plan: Plan) -> None:
    found = read_scores(plan, options.key, options.input)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, score in found.items():
            print(f"{score:.6f} {name}")


def _list(options: argparse.Namespace, plan: Plan) -> None:
    for entry in _gallery(options, plan).entries():
        print(entry.name)


def _remove(options: argparse.Namespace, plan: Plan) -> None:
    _gallery(options, plan).remove(options.name)
    if not options.quiet:
        print(f"removed: {options.name}")


def _gallery(options: argparse.Namespace, plan: Plan) -> Gallery:
    with open_bundle(options.key, "evaluation-keys", plan.program.parameters) as bundle:
        return Gallery(options.gallery, plan, bundle.manifest.key)
