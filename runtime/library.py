"""The door to OpenFHE: loading the library, its contexts, its errors. Nothing else imports it.

Scales are the plan's, not the library's. The context runs in FIXEDMANUAL mode with a nominal scale
2^q, q the size of a rescaling prime; a vector v at scale 2^e is encoded as v 2^(e - q) at the
nominal scale, which gives the integer polynomial of v at 2^e.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from fhecompile.ckks.parameters import Parameters
from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError


def load_openfhe() -> Any:
    """The openfhe module, or an error that says which Python and system it needs."""
    try:
        import openfhe
    except ImportError as error:
        text = str(error)
        if "GLIBCXX" in text or "GLIBC_" in text:
            reason = "the OpenFHE wheel needs a newer C++ library than this system has"
            hint = "use CPython 3.10, whose wheel runs on Debian 12 and Ubuntu 22.04"
        elif isinstance(error, ModuleNotFoundError) and error.name == "openfhe":
            reason = "OpenFHE is not installed"
            hint = "encrypted runs need CPython 3.10 or 3.12 and: pip install fhecompile[runtime]"
        else:
            reason = f"OpenFHE cannot be imported ({text.splitlines()[0]})"
            hint = (
                "its wheels hold one binary each: openfhe 1.6.1.0.22.4 for CPython 3.10, "
                "1.6.1.0.24.4 for CPython 3.12; --mode simulate runs everywhere"
            )
        raise FheCompileError(
            "openfhe-missing", reason, hint=hint, exit_code=EXIT_ENVIRONMENT
        ) from error
    return openfhe


@contextlib.contextmanager
def wrapped(doing: str, node: str = "") -> Iterator[None]:
    """Turns OpenFHE's bare RuntimeErrors into errors that say what was being done."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).split("\n")[0]
        text = text.split("]", 1)[-1].strip() if text.startswith("[") else text
        if "EvalKey for index" in text or "not found" in text.lower():
            raise FheCompileError(
                "evaluation-key-missing",
                f"an evaluation key is missing while {doing}",
                node=node,
                hint="generate the keys again for this very plan",
            ) from error
        if "approximation error is too high" in text:
            raise unreadable(node, "OpenFHE finds nothing but noise in it") from error
        raise FheCompileError(
            "openfhe-failed",
            f"OpenFHE failed while {doing}: {text}",
            node=node,
            hint="check that keys and ciphertexts were made for this very plan",
            exit_code=EXIT_ENVIRONMENT,
        ) from error


def unreadable(node: str, reason: str) -> FheCompileError:
    """The error of a ciphertext that decrypts to nothing that can be read."""
    return FheCompileError(
        "output-unreadable",
        f"{reason}: its values left their modulus, or it was made with another key",
        node=node,
        hint="run the same input with --mode simulate, which names the layer; if that is fine, "
        "check that the keys were made for this very plan",
    )


def make_context(parameters: Parameters, is_complex: bool = True) -> Any:
    """An OpenFHE context for the plan's parameters; OpenFHE checks the security itself."""
    o = load_openfhe()
    p = o.CCParamsCKKSRNS()
    bootstrap = parameters.bootstrap
    p.SetSecretKeyDist(
        o.SecretKeyDist.SPARSE_ENCAPSULATED if bootstrap else o.SecretKeyDist.UNIFORM_TERNARY
    )
    level = {128: "HEStd_128_classic", 192: "HEStd_192_classic", 256: "HEStd_256_classic"}
    name = "HEStd_NotSet" if parameters.insecure else level[parameters.security_bits]
    p.SetSecurityLevel(getattr(o.SecurityLevel, name))
    p.SetRingDim(parameters.ring_dimension)
    p.SetMultiplicativeDepth(parameters.levels)
    p.SetScalingModSize(parameters.prime_bits)
    p.SetFirstModSize(parameters.first_prime_bits)
    p.SetNumLargeDigits(parameters.digits)
    p.SetScalingTechnique(o.ScalingTechnique.FIXEDMANUAL)
    p.SetCKKSDataType(o.CKKSDataType.COMPLEX if is_complex else o.CKKSDataType.REAL)
    p.SetBatchSize(parameters.slots)
    with wrapped("setting up the parameters"):
        context = o.GenCryptoContext(p)
        # Every object that is read names its context, whose tables would be made again: 60 ms for
        # each key and ciphertext at N = 2^16. Those of another context are refused anyway.
        o.DisablePrecomputeCRTTablesAfterDeserializaton()
        features = [o.PKE, o.KEYSWITCH, o.LEVELEDSHE, o.ADVANCEDSHE]
        for feature in [*features, o.FHE] if bootstrap else features:
            context.Enable(feature)
    return context


# How many servers of this process use the transforms of so many slots; OpenFHE has one context for
# all that have the same parameters, and frees its transforms all at once.
_PREPARED: Counter[tuple[Parameters, int]] = Counter()
_PREPARING = threading.Lock()


def prepare_refreshes(context: Any, parameters: Parameters, slots: int) -> None:
    """Encodes the transforms of refreshes of so many slots, unless this context has them.

    `free_refreshes` is to be called as often.
    """
    b = parameters.bootstrap
    assert b is not None
    with _PREPARING, wrapped("preparing refreshes"):
        if not _PREPARED[parameters, slots]:
            context.EvalFEFuncBootstrapSetup([b.encode_levels, b.decode_levels], [0, 0], slots)
        _PREPARED[parameters, slots] += 1


def free_refreshes(context: Any, parameters: Parameters, slots: int) -> None:
    """Frees what `prepare_refreshes` has made in a context when nothing needs any of it."""
    with _PREPARING:
        _PREPARED[parameters, slots] -= 1
        if not any(count for (of, _), count in _PREPARED.items() if of == parameters):
            context.ClearBootstrapPrecom()
