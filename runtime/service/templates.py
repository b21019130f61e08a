"""Rows of stored templates: what is there, what is free, and what a job may ask for.

A name is taken by a template, or by a queued or running job that is to store it; it is free again
when that job fails or is deleted. Names and places are of one client's keys and one plan.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.gallery.templates import Entry
from runtime.service.database import Change, Database
from runtime.service.folder import ServiceFolder
from runtime.service.refusal import RefusedError, no_template
from runtime.service.rows import Job, Template


@dataclass(frozen=True)
class MadeTemplate:
    """A file that is to become a template: its name and place, bytes and SHA-256."""

    entry: Entry
    size: int
    sha256: str


class TemplateRows:
    """The templates of one folder; see `runtime.service.store.Store`."""

    def __init__(self, folder: ServiceFolder, database: Database) -> None:
        self.folder, self._database = folder, database

    def find_all(self, keys: int, plan: str) -> list[Template]:
        """All templates of a plan under these keys, by name."""
        query = "SELECT * FROM templates WHERE keys = ? AND plan = ? ORDER BY name"
        return [Template(**row) for row in self._database.select(query, keys, plan)]

    def remove(self, keys: int, plan: str, name: str) -> None:
        """Removes a template and its file; the others stay as they are."""
        with self._database.change() as change:
            query = "SELECT number FROM templates WHERE keys = ? AND plan = ? AND name = ?"
            row = change(query, keys, plan, name).fetchone()
            if row is None:
                raise no_template(name)
            change("DELETE FROM templates WHERE number = ?", row["number"])
        self.folder.drop("templates", row["number"])

    def free_places(self, keys: int, plan: str, count: int) -> list[int]:
        """The lowest places that are not taken."""
        taken = {template.place for template in self.find_all(keys, plan)}
        free = (place for place in itertools.count() if place not in taken)
        return [*itertools.islice(free, count)]

    def check_enrolment(
        self, change: Change, job: int, keys: int, plan: str, names: Sequence[str]
    ) -> None:
        """Raises when a name is taken; `job` is the row of the job that wants them."""
        query = "SELECT name FROM templates WHERE keys = ? AND plan = ?"
        taken = {row["name"] for row in change(query, keys, plan)}
        reserved: dict[str, str] = {}
        query = (
            "SELECT id, templates FROM jobs WHERE keys = ? AND plan = ? AND kind = 'enrol'"
            " AND state IN ('queued', 'running') AND number != ?"
        )
        for row in change(query, keys, plan, job):
            reserved |= dict.fromkeys(json.loads(row["templates"]), row["id"])
        for name in names:
            if name in taken:
                raise RefusedError(
                    409,
                    "template-exists",
                    f"there is a template {name} already",
                    "choose another name, or remove it first",
                )
            if name in reserved:
                raise RefusedError(
                    409,
                    "template-reserved",
                    f"job {reserved[name]} is to store a template {name}",
                    "choose another name, or delete that job",
                )

    def check_comparison(self, keys: int, plan: str, names: Sequence[str]) -> list[int]:
        """Places of the templates of these names, or of all; raises when there are none."""
        places = {template.name: template.place for template in self.find_all(keys, plan)}
        if not places and not names:
            raise RefusedError(
                409,
                "empty-gallery",
                "there is no template to compare with",
                "enrol first; templates of queued jobs are not there yet",
            )
        for name in names:
            if name not in places:
                raise no_template(name)
        return [places[name] for name in names or places]

    def insert(self, change: Change, job: Job, made: Sequence[MadeTemplate]) -> None:
        """Gives made templates their rows and places in the folder."""
        columns = "keys, plan, name, place, bytes, sha256, created"
        for template in made:
            values = (job.keys, job.plan, template.entry.name, template.entry.place)
            number = change(
                f"INSERT INTO templates ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                *(*values, template.size, template.sha256, time.time()),
            ).lastrowid
            self.folder.keep(template.entry.path, "templates", number or 0)
