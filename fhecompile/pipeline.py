"""Pipeline texts: `clean_graph,merge_affine{growth=2},...` to a list of passes.

Names are looked up in the table of built-in passes and in the entry-point group
`fhecompile.passes`; the fields of a pass are its options.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points

from fhecompile.errors import FheCompileError
from fhecompile.ir.program import Pass
from passes import BUILT_IN, DEFAULT_PIPELINE, REFRESHED_PIPELINE

PIPELINES = (DEFAULT_PIPELINE, REFRESHED_PIPELINE)

_ITEM = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(?:\{([^{}]*)\})?\s*(?:,|$)")


def build_pipeline(text: str = "", default: str = DEFAULT_PIPELINE) -> list[Pass]:
    """The passes of a pipeline text; empty means the default pipeline.

    A text that starts with `+` changes options of the default pipeline:
    `+assign_layouts{complex=false}`. What concerns passes of the other one is left out.
    """
    if text.startswith("+"):
        changes = _items(text[1:])
        order = [(name, "") for name, _ in _items(default)]
        known = {name for either in PIPELINES for name, _ in _items(either)}
        for name, options in changes:
            if name not in known:
                raise _unknown(name)
            _make(name, options)
        changed = dict(changes)
        return [_make(name, changed.get(name, "")) for name, _ in order]
    return [_make(name, options) for name, options in _items(text or default)]


def _items(text: str) -> list[tuple[str, str]]:
    items, position = [], 0
    while position < len(text):
        match = _ITEM.match(text, position)
        if match is None:
            raise FheCompileError(
                "pipeline-syntax",
                f"cannot read the pipeline at {text[position : position + 20]!r}",
                hint="write name{option=value},name,...",
            )
        items.append((match.group(1), match.group(2) or ""))
        position = match.end()
    return items


def _make(name: str, options: str) -> Pass:
    kind = find_pass(name)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values: dict[str, object] = {}
    for part in filter(None, (p.strip() for p in options.split(";"))):
        key, _, value = part.partition("=")
        if key not in fields:
            raise FheCompileError(
                "pipeline-option",
                f"the pass {name} has no option {key}",
                hint=f"its options are: {', '.join(fields) or 'none'}",
            )
        values[key] = _value(name, key, value, fields[key].default)
    return kind(**values)


def _value(name: str, key: str, text: str, default: object) -> object:
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            return float(text)
    except (KeyError, ValueError):
        pass
    raise FheCompileError(
        "pipeline-option",
        f"{text!r} is no value for the option {key} of the pass {name}",
        hint=f"its default is {default}",
    )


@dataclass(frozen=True)
class PassDescription:
    """A pass for `fhecompile passes`: its options with their defaults, and what it does."""

    name: str
    options: dict[str, bool | int | float]
    text: str

    @property
    def options_text(self) -> str:
        """The options as a pipeline text gives them."""
        parts = [
            f"{name}={str(value).lower() if isinstance(value, bool) else value}"
            for name, value in self.options.items()
        ]
        return f"{{{';'.join(parts)}}}" if parts else ""


def describe_passes() -> list[PassDescription]:
    """All passes, in the order of `pass_names`."""
    described = []
    for name in pass_names():
        kind = find_pass(name)
        options = {
            f.name: f.default
            for f in dataclasses.fields(kind)
            if isinstance(f.default, bool | int | float)
        }
        text = kind.__doc__ or ""
        if text.startswith("See the module docstring"):
            text = sys.modules[kind.__module__].__doc__ or ""
        described.append(PassDescription(name, options, text.strip().partition("\n")[0]))
    return described


def pass_names() -> list[str]:
    """Every pass there is: the built-in ones in the default order, then those of other packages."""
    others = sorted(entry.name for entry in entry_points(group="fhecompile.passes"))
    return [*BUILT_IN, *(name for name in others if name not in BUILT_IN)]


def find_pass(name: str) -> type[Pass]:
    """The class of a pass; imports its module."""
    if name in BUILT_IN:
        module = importlib.import_module(f"passes.{name}")
        kind: type[Pass] = getattr(module, class_name(name))
        return kind
    for entry in entry_points(group="fhecompile.passes"):
        if entry.name == name:
            loaded: type[Pass] = entry.load()
            return loaded
    raise _unknown(name)


def class_name(name: str) -> str:
    """`fold_batchnorm` -> `FoldBatchnorm`."""
    return "".join(word.capitalize() for word in name.split("_"))


def _unknown(name: str) -> FheCompileError:
    return FheCompileError(
        "unknown-pass",
        f"there is no pass {name}",
        hint=f"the passes are: {', '.join(pass_names())}",
    )
