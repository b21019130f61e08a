"""What the seven stages share: where files are, the options, and how a stage ends.

The stages are those of the face-verification workload of the FHE benchmarking suite
(github.com/fhe-benchmarking/face-recognition, docs/submission-interface.md), which runs
`submission/<stage>.py <size>` one after the other from its root. README.md in this folder says how
to use them there, and what its contract decided. IO is the folder of `--io`; RUN is IO, or with a
size IO/<its name>:

    IO/model.onnx, calibration.npz              given: the network of one aligned face, and faces
    IO/server_data/model.fheplan                the plan: public, the same for every size
    RUN/client/keys/secret.key                  the client's alone, as is all of RUN/client
    RUN/client/inputs.npz                       prepared pairs
    RUN/client/scores.npz                       decrypted scores
    RUN/public_keys/public.key, evaluation.keys
    RUN/ciphertexts_upload/inputs.fhe
    RUN/ciphertexts_download/outputs.fhe
    RUN/server_reported.json                    seconds of the encrypted computation
    RUN/encrypted_model_predictions.txt         one score per line

The suite measures the sizes of server_data, public_keys and both ciphertext folders.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fhecompile.compile import compile_model
from fhecompile.errors import FheCompileError
from fhecompile.options import CompileOptions
from fhecompile.plan import Plan
from fhecompile.plan.files import check_writable, make_folder
from runtime.client import check_secure
from runtime.command import complain, count, end_command
from runtime.key_files import EVALUATION, PUBLIC, SECRET
from runtime.tuning import tune_process

SIZES = ("single", "small", "medium", "large")


@dataclass(frozen=True)
class Stage:
    """The files of a run, and what the command line asks for."""

    options: argparse.Namespace

    @property
    def run(self) -> Path:
        """The folder of this instance of the benchmark."""
        io: Path = self.options.io
        return io if self.options.size is None else io / SIZES[self.options.size]

    @property
    def plan_file(self) -> Path:
        """Beside the instances: the suite does not tell which one the model is prepared for."""
        io: Path = self.options.io
        return io / "server_data" / "model.fheplan"

    @property
    def pairs(self) -> Path:
        """The pairs of images, by default those of the suite."""
        given: Path | None = self.options.pairs
        instance = "" if self.options.size is None else SIZES[self.options.size]
        return given or Path("datasets") / instance / "intermediate" / "test_pairs.h5"

    @property
    def keys(self) -> Path:
        """Folder of the client's keys."""
        return self.run / "client" / "keys"

    @property
    def secret_key(self) -> Path:
        """Read by client_decrypt_decode alone."""
        return self.keys / SECRET

    @property
    def public_key(self) -> Path:
        """What inputs are encrypted with."""
        return self.run / "public_keys" / PUBLIC

    @property
    def evaluation_keys(self) -> Path:
        """What the server computes with."""
        return self.run / "public_keys" / EVALUATION

    @property
    def prepared(self) -> Path:
        """Pairs as the plan takes them."""
        return self.run / "client" / "inputs.npz"

    @property
    def inputs(self) -> Path:
        """Encrypted inputs."""
        return self.run / "ciphertexts_upload" / "inputs.fhe"

    @property
    def outputs(self) -> Path:
        """Encrypted outputs."""
        return self.run / "ciphertexts_download" / "outputs.fhe"

    @property
    def scores(self) -> Path:
        """Decrypted scores."""
        return self.run / "client" / "scores.npz"

    @property
    def predictions(self) -> Path:
        """The answer, as the suite wants it."""
        return self.run / "encrypted_model_predictions.txt"

    @property
    def report(self) -> Path:
        """The server's own times."""
        return self.run / "server_reported.json"

    def load_plan(self) -> Plan:
        """The plan, for which server_preprocess_model or client_key_generation has run."""
        plan = Plan.load(made_by(self.plan_file, "plan", "server_preprocess_model"))
        check_secure(plan, self.options.insecure_toy)
        return _marked(plan)

    def compile_plan(self) -> Plan:
        """Compiles the model to the plan of a pair's score and writes it.

        Equal models, calibration data and options give equal plans, down to the bytes: keys that
        were made before the server compiled fit.
        """
        given = self.options
        options = CompileOptions(
            precision_bits=given.precision_bits,
            batch=given.batch,
            match="cosine",
            threshold=given.threshold,
            ring_dimension=given.ring_dimension,
            insecure_toy=given.insecure_toy,
        )
        model = given.model or given.io / "model.onnx"
        plan = compile_model(model, given.calibration or given.io / "calibration.npz", options).plan
        plan.save(writable(self.plan_file))
        return _marked(plan)


def _marked(plan: Plan) -> Plan:
    if plan.parameters.insecure:
        complain("warning: this plan is INSECURE: its ring is a toy, for tests only")
    return plan


def made_by(path: Path, what: str, stage: str) -> Path:
    """The path, if the file is there; otherwise FheCompileError `stage-order`."""
    if not path.is_file():
        raise FheCompileError(
            "stage-order", f"there is no {what} yet", node=str(path), hint=f"run {stage} first"
        )
    return path


def writable(path: Path) -> Path:
    """The path, in a folder that is made if need be; FheCompileError if it cannot be written."""
    make_folder(path.parent, "--io")
    check_writable(path, "--io")
    return path


def make_private(folder: Path) -> None:
    """Makes a folder that nobody but its owner may look into."""
    make_folder(folder, "--io")
    folder.chmod(0o700)


def run_stage(
    action: Callable[[Stage], None],
    description: str,
    *,
    compiles: bool = False,
    long: bool = False,
) -> None:
    """Runs a stage's program and ends the process with its exit code.

    Args:
        action: does the work.
        description: the script's docstring.
        compiles: it may compile the model.
        long: it works on ciphertexts or keys for long, so that the process is tuned for that.
    """
    options = _parser(description.splitlines()[0], compiles).parse_args()
    if long:
        tune_process()
    sys.exit(end_command(lambda: action(Stage(options)), options.verbose))


def _parser(description: str, compiles: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("size", nargs="?", type=int, choices=range(4), help=", ".join(SIZES))
    add("--io", type=Path, default=Path("io"), metavar="DIR", help="all files; default: io")
    add("--pairs", type=Path, metavar="FILE", help="list of pairs, or test_pairs.h5 of the suite")
    add("--insecure-toy", action="store_true", help="accept a plan that is not secure")
    add("-v", "--verbose", action="store_true", help="tracebacks of internal errors")
    add("--threads", type=count, metavar="N", help="default: as calibrated, or every core")
    if compiles:
        add("--model", type=Path, metavar="ONNX", help="default: model.onnx in --io")
        add("--calibration", metavar="FILE", help="default: calibration.npz in --io")
        add("--precision-bits", type=float, default=8.0, metavar="BITS")
        add("--batch", type=count, default=1, metavar="B", help="pairs in a set of ciphertexts")
        add("--threshold", type=float, default=0.0, metavar="T", help="subtracted from a score")
        add("--ring-dimension", type=int, metavar="N", help="default: the smallest secure one")
    return parser
