"""The gallery's command lines: enrol, identify, scores, gallery, remove."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from fhecompile.plan import Plan
from runtime.bundle import open_bundle
from runtime.gallery.roles import enrol_file, identify_file, read_scores
from runtime.gallery.store import Gallery

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
    _arguments(enrol, "evaluation.keys", "encrypted templates, from `evaluate`")
    enrol.add_argument(
        "--name", required=True, action="append", metavar="NAME", help="one per template"
    )

    identify = add_role("identify", plan_and(_identify), "compares a template with a gallery")
    _arguments(identify, "evaluation.keys", "one encrypted template, from `evaluate`")
    identify.add_argument(
        "--name", action="append", metavar="NAME", help="compare with these; default: all"
    )
    identify.add_argument("--output", required=True, type=Path, metavar="FILE", help="to write")

    scores = add_role("scores", plan_and(_scores), "decrypts the scores of a comparison")
    _arguments(scores, "secret.key", "encrypted scores, from `identify`", with_gallery=False)
    scores.add_argument("--json", action="store_true", help="scores by name as JSON")

    listing = add_role("gallery", plan_and(_list), "lists the names in a gallery")
    _arguments(listing, "evaluation.keys", "", with_input=False)

    remove = add_role("remove", plan_and(_remove), "removes a template from a gallery")
    _arguments(remove, "evaluation.keys", "", with_input=False)
    remove.add_argument("--name", required=True, metavar="NAME", help="which")


def _arguments(
    parser: argparse.ArgumentParser,
    key: str,
    what: str,
    *,
    with_input: bool = True,
    with_gallery: bool = True,
) -> None:
    add = parser.add_argument
    add("plan", type=Path, metavar="PLAN", help="the plan, compiled with --match gallery")
    add("--key", required=True, type=Path, metavar="FILE", help=key)
    if with_input:
        add("--input", required=True, type=Path, metavar="FILE", help=what)
    if with_gallery:
        add("--gallery", required=True, type=Path, metavar="DIR", help="the gallery's folder")


def _enrol(options: argparse.Namespace, plan: Plan) -> None:
    enrol_file(plan, options.key, options.input, options.gallery, options.name)
    if not options.quiet:
        print(f"stored in {options.gallery}: {', '.join(options.name)}")


def _identify(options: argparse.Namespace, plan: Plan) -> None:
    count = identify_file(
        plan, options.key, options.input, options.gallery, options.output, options.name
    )
    if not options.quiet:
        print(f"compared with {count} templates\nwritten: {options.output}")


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
