"""The model and the options that `compile` and `tune` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from fhecompile.options import CompileOptions

Function = TypeVar("Function", bound=Callable[..., Any])


def model_options(function: Function) -> Function:
    """The argument MODEL, and all options but those a table is made over."""
    decorators = (
        click.argument("model", type=click.Path(path_type=Path)),
        click.option(
            "--calibrate",
            metavar="DATA",
            help="Samples like the network's inputs: .npy, .npz, or file.npz:array.",
        ),
        click.option(
            "--activations",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Range, degree, error, ... of single functions: a TOML file.",
        ),
        click.option(
            "--match",
            type=click.Choice(["cosine", "distance", "gallery"]),
            default=None,
            help="Compare pairs of samples (one number per pair), or make templates for a gallery.",
        ),
        click.option(
            "--threshold",
            type=float,
            default=0.0,
            metavar="T",
            help="Subtract this from what --match computes.",
        ),
        click.option(
            "--batch",
            type=int,
            default=1,
            show_default=True,
            metavar="N",
            help="Samples that share one set of ciphertexts: more of them per second.",
        ),
        click.option(
            "--max-memory",
            callback=_size,
            metavar="SIZE",
            help="Memory a run on one image may take, e.g. 6G; keys get half of it.",
        ),
        click.option(
            "--level-budget",
            type=int,
            default=0,
            metavar="N",
            help="Refresh values so that at most N primes are used between two refreshes.",
        ),
        click.option(
            "--no-bootstrap",
            is_flag=True,
            help="Refuse a network that is too deep without refreshes.",
        ),
        click.option(
            "--security",
            type=click.Choice(["128", "192", "256"]),
            default="128",
            show_default=True,
            help="Classical security in bits.",
        ),
        click.option("--insecure-toy", is_flag=True, help="Allow a ring too small to be secure."),
        click.option("--ring-dimension", type=int, metavar="N", help="Use this ring dimension."),
        click.option(
            "--input-shape",
            "input_shapes",
            multiple=True,
            metavar="NAME=1x3x32x32",
            help="Shape of an input whose ONNX shape is dynamic; may be repeated.",
        ),
        click.option(
            "--output-name",
            "outputs",
            multiple=True,
            metavar="NAME",
            help="Compute this value of the model instead of its outputs; may be repeated.",
        ),
        click.option(
            "--passes", default="", metavar="TEXT", help="Pipeline; see `fhecompile passes`."
        ),
    )
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def read_options(given: Mapping[str, Any], **more: Any) -> tuple[str | None, CompileOptions]:
    """The calibration data and the options of what `model_options` was given; `more` are fields."""
    options = CompileOptions(
        activations=given["activations"] or {},
        security_bits=int(given["security"]),
        insecure_toy=given["insecure_toy"],
        ring_dimension=given["ring_dimension"],
        match=given["match"] or "",
        threshold=given["threshold"],
        batch=given["batch"],
        max_memory=given["max_memory"],
        bootstrap=not given["no_bootstrap"],
        level_budget=given["level_budget"],
        input_shapes=dict(map(_shape, given["input_shapes"])),
        outputs=given["outputs"],
        passes=given["passes"],
        **more,
    )
    return given["calibrate"], options


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split("x"))
    except ValueError:
        shape = ()
    if not (name and equals and shape and min(shape) > 0):
        raise click.BadParameter(f"{text!r} is not name=1x3x32x32", param_hint="--input-shape")
    return name, shape


def _size(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
    """Bytes of a size like 6G."""
    from runtime.machine import parse_size

    if text is None:
        return None
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no size like 800M or 6G", ctx, param) from error
