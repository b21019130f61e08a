"""What every exported torch network here shares: the ONNX export and a range check.

The export keeps the graph as the network was written. Two things would change it:

* `training=EVAL` folds each BatchNormalization into the Conv before it, so `PRESERVE` is used
  on a network in eval mode: same function, batch norms still there.
* constant folding rewrites the graph from torch's side; what it leaves depends on the version
  of torch, so it is off and all folding is left to the compiler that reads the file.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

OPSET = 17


class PeakValue(TorchFunctionMode):
    """Context that records in `peak` the largest |value| any torch operation returned.

    It sees every intermediate tensor, also the ones inside a module's `forward`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point() and result.numel():
            self.peak = max(self.peak, float(result.detach().abs().max()))
        return result


def find_peak_value(network: nn.Module, images: Tensor) -> float:
    """Return the largest |value| in `network` (eval mode) over `images`."""
    network.eval()
    with torch.no_grad(), PeakValue() as record:
        network(images)
    peak: float = record.peak
    return peak


def export_onnx(network: nn.Module, example: Tensor, path: Path, output_name: str) -> None:
    """Write `network` in eval mode to `path`: opset 17, the static shape of `example`.

    The input is named `image`, the output `output_name`.
    """
    network.eval()
    with warnings.catch_warnings():
        # The TorchScript exporter announces its successor; its node-by-node graph is wanted here.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["image"],
            output_names=[output_name],
        )


def run_export(
    prog: str,
    build: Callable[..., nn.Module],
    choices: Mapping[str, Sequence[Any]],
    shape: Callable[..., tuple[int, ...]],
    arguments: Sequence[str] | None,
) -> int:
    """Run the command line `prog export` of a classifier; returns 0.

    Args:
        prog: for its usage.
        build: makes the network with random weights from the choices and `seed`, by name.
        choices: the values each option can have; the first is the default.
        shape: of one input, from the choices, by name.
        arguments: the command line, by default the process's own.
    """
    parser = argparse.ArgumentParser(prog=prog)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("export", help="write a random-weight ONNX file")
    for name, values in choices.items():
        command.add_argument(
            f"--{name}",
            type=type(values[0]),
            choices=values,
            default=values[0],
            help=f"default: {values[0]}",
        )
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chosen = {name: getattr(options, name) for name in choices}
    network = build(**chosen, seed=options.seed)
    export_onnx(network, torch.zeros(1, *shape(**chosen)), options.out, "logits")
    count = sum(p.numel() for p in network.parameters())
    print(f"{options.out.name}: {', '.join(map(str, chosen.values()))}, {count} parameters")
    return 0
