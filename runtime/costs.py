"""The costs measured on this machine, as `python -m runtime.calibrate` stores them.

The file is JSON with sorted keys, by default $XDG_CONFIG_HOME/fhecompile/costs.json or
~/.config/fhecompile/costs.json. FHECOMPILE_COSTS names another, or is "default" for the built-in
costs. A file that cannot be used, or was measured on another processor or number of cores, is
ignored with a warning. Nothing here needs numpy: `runtime.tuning` reads it before a program starts.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fhecompile.ckks.cost_table import BUILT_IN, CostTable
from runtime.processor import processor_name, usable_cores

VARIABLE = "FHECOMPILE_COSTS"
DEFAULT = "default"
FORMAT = "fhecompile costs 1"


class CostsWarning(UserWarning):
    """A file of measured costs is ignored."""


@dataclass(frozen=True)
class MachineCosts:
    """What was measured, and where.

    Args:
        table: costs of the steps, all cores at work.
        threads: operations run at the same time, in the fastest combination found.
        openmp_threads: OpenMP threads inside each of them.
        reference_rotation: its seconds on one thread (`runtime.measure`).
        ring_dimension: N that was measured at.
        processor: the processor's name.
        cores: cores that were usable.
        versions: of the libraries, by name.
    """

    table: CostTable
    threads: int
    openmp_threads: int
    reference_rotation: float
    ring_dimension: int
    processor: str = field(default_factory=processor_name)
    cores: int = field(default_factory=usable_cores)
    versions: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The file's content."""
        content = {
            "format": FORMAT,
            "machine": {"processor": self.processor, "cores": self.cores},
            "versions": dict(self.versions),
            "ring_dimension": self.ring_dimension,
            "milliseconds_per_prime": dict(self.table.milliseconds),
            "reference_rotation_seconds": self.reference_rotation,
            "threads": self.threads,
            "openmp_threads": self.openmp_threads,
        }
        return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def costs_path(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where measured costs are looked for; None: nowhere."""
    named = environment.get(VARIABLE, "")
    return user_path(environment) if not named else None if named == DEFAULT else Path(named)


def user_path(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The place in the user's configuration directory; None where there is no home."""
    configured = environment.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(configured):  # the specification has others ignored
        return Path(configured, "fhecompile", "costs.json")
    try:
        return Path.home() / ".config" / "fhecompile" / "costs.json"
    except RuntimeError:
        return None


def find_costs(environment: Mapping[str, str] = os.environ) -> tuple[MachineCosts | None, str]:
    """The measured costs of this machine, if any, and the warning when a file is ignored."""
    path = costs_path(environment)
    if path is None:
        return None, ""
    try:
        found = _decode(path.read_bytes())
        here = (processor_name(), usable_cores())
        if (found.processor, found.cores) == here:
            return found, ""
        reason = (
            f"it was measured with {found.cores} cores of {found.processor}, "
            f"this process has {here[1]} of {here[0]}"
        )
    except FileNotFoundError:
        if not environment.get(VARIABLE):
            return None, ""
        reason = "there is no such file"
    except OSError as error:
        reason = f"it cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        reason = "it is no file of measured costs"
    output = f" --output {shlex.quote(str(path))}" if environment.get(VARIABLE) else ""
    return None, (
        f"{path}: ignored, the built-in costs are used: {reason} [costs-ignored]\n"
        f"  hint: make a new one with: python -m runtime.calibrate{output}"
    )


def machine_table(warn: Callable[[str], object]) -> CostTable:
    """What predictions are made from: the measured costs, or the built-in ones.

    `warn` is called with the text when a file is ignored.
    """
    costs, ignored = find_costs()
    if ignored:
        warn(ignored)
    return BUILT_IN if costs is None else costs.table


def evaluation_threads(
    costs: MachineCosts | None, environment: Mapping[str, str] = os.environ
) -> int:
    """Operations to run at the same time.

    The measured choice, if OpenMP was told (`runtime.tuning`) to use the threads that go with it.
    """
    if costs is not None and environment.get("OMP_NUM_THREADS") == str(costs.openmp_threads):
        return costs.threads
    return usable_cores()


def _decode(data: bytes) -> MachineCosts:
    content = json.loads(data)
    if content["format"] != FORMAT:
        raise ValueError("another format")
    counts = [content[name] for name in ("threads", "openmp_threads", "ring_dimension")]
    if any(type(count) is not int or count < 1 for count in counts):
        raise ValueError("a count is none")
    return MachineCosts(
        CostTable(content["milliseconds_per_prime"], measured=True),
        content["threads"],
        content["openmp_threads"],
        float(content["reference_rotation_seconds"]),
        content["ring_dimension"],
        str(content["machine"]["processor"]),
        int(content["machine"]["cores"]),
        dict(content["versions"]),
    )
