"""`python -m runtime`: the roles of an encrypted run as programs that share only files.

keygen PLAN... --out DIR                            the client makes its keys
encrypt PLAN --key public.key --input x.npz         whoever has inputs encrypts them
evaluate PLAN --key evaluation.keys --input x.fhe   the server computes, without a secret key
decrypt PLAN --key secret.key --input y.fhe         the client reads the answer

enrol, identify, scores, gallery, remove            see `runtime.gallery`
serve --folder DIR --plan PLAN                      the server's part over HTTP (`runtime.service`)
add-client, remove-client --folder DIR NAME         who may use it
page PLAN --server URL --token-file FILE --keys DIR the client's part as a web page (`runtime.page`)

`python -m runtime.run` plays all of them in one process.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fhecompile.plan import Plan
from fhecompile.plan.files import check_writable
from fhecompile.version import __version__
from runtime.client import check_secure
from runtime.command import (
    add_long_run_options,
    add_memory_option,
    add_process_options,
    begin_with,
    complain,
    count,
    end_command,
    reporting,
    tracing,
)
from runtime.gallery.commands import add_roles
from runtime.inputs import read_inputs
from runtime.key_files import describe_keys, make_keys
from runtime.page.commands import add_page
from runtime.parent import end_with_parent
from runtime.roles import decrypt_file, encrypt_file, evaluate_file
from runtime.samples import write_outputs
from runtime.service.commands import add_commands
from runtime.tuning import tune_process


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code.

    Without `arguments` it is the process's own command line: what computes for long then starts the
    process again in the environment of `runtime.tuning`.
    """
    options = _parser().parse_args(arguments)

    def act() -> None:
        if getattr(options, "end_with", None):
            end_with_parent(options.end_with)
        if arguments is None and getattr(options, "evaluates", False):
            tune_process()
        options.role(options)

    return end_command(act, options.verbose)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime", description="The roles of an encrypted run, on files."
    )
    parser.add_argument("--version", action="version", version=f"runtime {__version__}")
    roles = parser.add_subparsers(required=True, metavar="ROLE")

    keygen = _role(roles, "keygen", _keygen, "makes the keys that plans need")
    keygen.add_argument("plan", nargs="+", type=Path, metavar="PLAN", help="plan files")
    keygen.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    keygen.set_defaults(evaluates=True)

    encrypt = _role(roles, "encrypt", _encrypt, "encrypts inputs")
    _files(encrypt, "public.key", ".npz with one array per input, .npy, or file.npz:array")
    encrypt.add_argument(
        "--ignore-range", action="store_true", help="accept inputs outside the calibrated range"
    )

    evaluate = _role(roles, "evaluate", _evaluate, "computes encrypted outputs")
    _files(evaluate, "evaluation.keys", "encrypted inputs")
    evaluate.add_argument(
        "--threads", type=count, metavar="N", help="default: as calibrated, or every core"
    )
    evaluate.add_argument(
        "--in-flight",
        type=count,
        metavar="N",
        help="batches evaluated at once at most; default: as many as memory allows",
    )
    add_memory_option(evaluate)
    add_process_options(evaluate)
    add_long_run_options(evaluate)

    decrypt = _role(roles, "decrypt", _decrypt, "decrypts outputs")
    _files(decrypt, "secret.key", "encrypted outputs")
    add_roles(lambda name, role, text: _role(roles, name, role, text), _load)
    add_commands(lambda name, role, text: _role(roles, name, role, text))
    add_page(lambda name, role, text: _role(roles, name, role, text), _load)
    return parser


def _role(
    roles: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    role: Callable[[argparse.Namespace], None],
    text: str,
) -> argparse.ArgumentParser:
    parser = roles.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(role=role)
    add = parser.add_argument
    add("--insecure-toy", action="store_true", help="accept a plan that is not secure")
    add("-v", "--verbose", action="store_true", help="tracebacks of internal errors")
    add("-q", "--quiet", action="store_true", help="errors and warnings only")
    return parser


def _files(parser: argparse.ArgumentParser, key: str, inputs: str) -> None:
    add = parser.add_argument
    add("plan", type=Path, metavar="PLAN", help="the plan file")
    add("--key", required=True, type=Path, metavar="FILE", help=key)
    add("--input", required=True, metavar="FILE", help=inputs)
    add("--output", required=True, type=Path, metavar="FILE", help="the file to write")


def _keygen(options: argparse.Namespace) -> None:
    plans = [_load(options, path) for path in options.plan]
    with reporting(options, "making keys") as (report, say):
        started = time.perf_counter()
        make_keys(plans, options.out, report.update)
        seconds = time.perf_counter() - started
        sizes = describe_keys(options.out)
        say(f"keys made in {seconds:.1f} s")
        for name, size in sizes.items():
            say(f"written: {options.out / name} ({size / 2**20:.1f} MiB)")


def _encrypt(options: argparse.Namespace) -> None:
    plan = _load(options, options.plan)
    check_writable(options.output, "--output")
    feeds = read_inputs(options.input, plan)
    with reporting(options, "encrypting") as (_, say):
        samples = encrypt_file(
            plan, options.key, feeds, options.output, ignore_range=options.ignore_range
        )
        say(f"{samples} samples encrypted")
        say(f"written: {options.output} ({options.output.stat().st_size / 2**20:.1f} MiB)")


def _evaluate(options: argparse.Namespace) -> None:
    plan = _load(options, options.plan)
    if options.trace:
        check_writable(options.trace, "--trace")
    with (
        tracing(options.trace, plan) as executions,
        reporting(options, "evaluating") as (report, say),
    ):
        seconds = evaluate_file(
            plan,
            options.key,
            Path(options.input),
            options.output,
            threads=options.threads,
            in_flight=options.in_flight,
            max_memory=options.max_memory,
            progress=report.update,
            begin=begin_with(report, lambda text: None if options.quiet else print(text)),
            checkpoint=options.checkpoint,
            executions=executions,
        )
        say(f"evaluated in {seconds:.2f} s")
        say(f"written: {options.output} ({options.output.stat().st_size / 2**20:.1f} MiB)")


def _decrypt(options: argparse.Namespace) -> None:
    plan = _load(options, options.plan)
    check_writable(options.output, "--output")
    outputs = decrypt_file(plan, options.key, Path(options.input))
    write_outputs(options.output, outputs)
    if not options.quiet:
        print(f"written: {options.output}")


def _load(options: argparse.Namespace, path: Path) -> Plan:
    plan = Plan.load(path)
    check_secure(plan, options.insecure_toy)
    if plan.parameters.insecure:
        complain("warning: this plan is INSECURE: its ring is a toy, for tests only")
    return plan


if __name__ == "__main__":
    sys.exit(main())
