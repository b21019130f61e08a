"""Keys on disk: made into a folder as a whole, read one at a time.

secret.key       all that the client holds: its secret key and its public key
public.key       what others need to encrypt for the client
evaluation.keys  what the server needs; gigabytes for a large network, written one key at a time

Keys serve every plan of their parameters that needs no other rotations; `make_keys` takes several
plans and makes what any of them needs.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError
from fhecompile.plan import Plan
from fhecompile.plan.schema import KeysInfo
from runtime.bundle import Bundle, BundleWriter, open_bundle, write_bundle
from runtime.key_maps import changing_keys, clear_automorphism_keys, insert_automorphism_keys
from runtime.key_stages import REFRESH, RELINEARISATION, KeyNeeds, list_keys
from runtime.key_store import KeyStore, StagedContext
from runtime.keys import (
    PublicContext,
    SecretContext,
    ServerContext,
    automorphism_indices,
    generate_automorphism_keys,
    generate_key_pair,
    generate_refresh_keys,
)
from runtime.library import make_context, wrapped
from runtime.serialization import (
    insert_automorphism_key,
    insert_relinearisation_key,
    read_public_key,
    read_secret_key,
    relinearisation_to_bytes,
    to_bytes,
)

SECRET, PUBLIC, EVALUATION = "secret.key", "public.key", "evaluation.keys"
ONLY_OWNER = 0o600
Progress = Callable[[float], None]


def make_keys(plans: Sequence[Plan], folder: Path, progress: Progress | None = None) -> str:
    """Makes keys for these plans into a new folder, all files or none; returns their tag.

    Args:
        plans: plans of the same parameters.
        folder: must not exist, or be empty: keys are never overwritten.
        progress: called with the share of the evaluation keys that is done.
    """
    keys = _joint_keys(plans)
    _check_folder(folder, plans[0], keys)
    # In a folder beside it, which is then renamed: keys of two runs never mix.
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        tag = _write_keys(plans[0], keys, made, progress)
        made.chmod(0o700)
        made.rename(folder)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError):
            raise _no_folder(folder, error.strerror or str(error)) from error
        raise
    return tag


def load_public(plan: Plan, path: Path) -> PublicContext:
    """The public key in a file, for encrypting a plan's inputs."""
    with open_bundle(path, "public-key", plan.program.parameters) as bundle:
        context = make_context(plan.parameters)
        key = read_public_key(bundle.read("public"), str(path), context, bundle.manifest.key)
        return PublicContext(context=context, public_key=key, parameters=plan.parameters)


def load_secret(plan: Plan, path: Path) -> SecretContext:
    """The client's keys in a file, for encrypting and decrypting what belongs to a plan."""
    with open_bundle(path, "secret-key", plan.program.parameters) as bundle:
        context, tag = make_context(plan.parameters), bundle.manifest.key
        return SecretContext(
            context=context,
            public_key=read_public_key(bundle.read("public"), str(path), context, tag),
            secret_key=read_secret_key(bundle.read("secret"), str(path), context, tag),
            parameters=plan.parameters,
        )


def load_evaluation_keys(plan: Plan, path: Path, progress: Progress | None = None) -> ServerContext:
    """The evaluation keys in a file that a plan needs; `release` it when it is done with.

    Args:
        plan: the plan.
        path: the file.
        progress: called with the share that is read.
    """
    with open_bundle(path, "evaluation-keys", plan.program.parameters) as bundle:
        server = ServerContext(make_context(plan.parameters), bundle.manifest.key, plan.parameters)
        try:
            _insert_keys(plan.program.keys, bundle, server, progress)
        except BaseException:
            server.release()
            raise
        return server


def open_staged_keys(plan: Plan, path: Path, held_bytes: int) -> StagedContext:
    """The same keys, of which only some are in memory at a time (`runtime.key_stages`).

    Args:
        plan: the plan, and the only one that can be run with them.
        path: the file; it is open until `release`.
        held_bytes: of keys in memory at most.
    """
    with contextlib.ExitStack() as stack:
        bundle = stack.enter_context(open_bundle(path, "evaluation-keys", plan.program.parameters))
        stages = KeyNeeds.of(plan).divide(held_bytes)
        context, tag = make_context(plan.parameters), bundle.manifest.key
        store = KeyStore(bundle, stages, context, tag)
        staged = StagedContext(context, tag, plan.parameters, store)
        stack.callback(staged.release)
        if plan.program.keys.relinearisation and RELINEARISATION in bundle.manifest.entries:
            place = f"{path}: {RELINEARISATION}"
            insert_relinearisation_key(bundle.read(RELINEARISATION), place, context, tag)
        stack.pop_all()
        return staged


def generate_staged_keys(plan: Plan, held_bytes: int) -> tuple[SecretContext, StagedContext]:
    """A fresh key pair and a plan's evaluation keys, in a temporary file of nobody else.

    The file has no name any more when this returns, so that it is gone when its keys are released,
    or the process ends, however that is.

    Args:
        plan, held_bytes: see `open_staged_keys`.
    """
    keys, parameters = plan.program.keys, plan.program.parameters
    place = Path(tempfile.gettempdir())
    _check_space(place, place, plan, keys, "TMPDIR")
    with tempfile.TemporaryDirectory(prefix="fhecompile-", dir=place) as folder:
        path = Path(folder) / EVALUATION
        secret = generate_key_pair(plan.parameters)
        tag: str = secret.secret_key.GetKeyTag()
        try:
            with write_bundle(path, "evaluation-keys", parameters, tag, option="TMPDIR") as writer:
                _write_evaluation_keys(writer, secret, keys)
            return secret, open_staged_keys(plan, path, held_bytes)
        except BaseException:
            ServerContext(secret.context, tag, plan.parameters).release()
            raise


def _insert_keys(
    keys: KeysInfo, bundle: Bundle, server: ServerContext, progress: Progress | None
) -> None:
    # What is missing the server names, which checks the keys of every plan it is given.
    there = [name for name in list_keys(keys) if name in bundle.manifest.entries]
    for number, name in enumerate(there, 1):
        insert = insert_relinearisation_key if name == RELINEARISATION else insert_automorphism_key
        insert(bundle.read(name), f"{bundle.path}: {name}", server.context, server.key_tag)
        if progress is not None:
            progress(number / len(there))


def _joint_keys(plans: Sequence[Plan]) -> KeysInfo:
    if any(plan.parameters != plans[0].parameters for plan in plans):
        raise FheCompileError(
            "wrong-parameters",
            "the plans have different parameters",
            hint="make keys for each of them, or compile them together",
        )
    keys = [plan.program.keys for plan in plans]
    return KeysInfo(
        tuple(sorted({r for k in keys for r in k.rotations})),
        any(k.conjugation for k in keys),
        any(k.relinearisation for k in keys),
        tuple(sorted({slots for k in keys for slots in k.refreshes})),
    )


def _write_keys(plan: Plan, keys: KeysInfo, folder: Path, progress: Progress | None) -> str:
    parameters = plan.program.parameters
    secret = generate_key_pair(plan.parameters)
    tag: str = secret.secret_key.GetKeyTag()
    public = to_bytes(secret.public_key)
    with write_bundle(folder / PUBLIC, "public-key", parameters, tag, option="--out") as writer:
        writer.add("public", public)
    with write_bundle(
        folder / SECRET, "secret-key", parameters, tag, option="--out", mode=ONLY_OWNER
    ) as writer:
        writer.add("public", public)
        writer.add("secret", to_bytes(secret.secret_key))
    with write_bundle(
        folder / EVALUATION, "evaluation-keys", parameters, tag, option="--out"
    ) as writer:
        _write_evaluation_keys(writer, secret, keys, progress)
    return tag


def _write_evaluation_keys(
    writer: BundleWriter,
    secret: SecretContext,
    keys: KeysInfo,
    progress: Progress | None = None,
) -> None:
    """Makes them one after another: few are in memory at a time (`runtime.machine.MADE_KEYS`)."""
    tag: str = secret.secret_key.GetKeyTag()
    count = len(automorphism_indices(secret.parameters, keys))
    if keys.refreshes:
        writer.add(REFRESH, to_bytes(generate_refresh_keys(secret)))
        ServerContext(secret.context, tag, secret.parameters).release()
    if keys.relinearisation:
        writer.add(RELINEARISATION, _make_relinearisation(secret, tag))
    for number, (name, made) in enumerate(generate_automorphism_keys(secret, keys), 1):
        writer.add(name, to_bytes(made))
        del made
        with changing_keys():
            clear_automorphism_keys(secret.context, tag)
            insert_automorphism_keys(secret.context, tag, ())
        if progress is not None:
            progress(number / count)
    ServerContext(secret.context, tag, secret.parameters).release()


def _make_relinearisation(secret: SecretContext, tag: str) -> bytes:
    with wrapped("generating keys"), changing_keys():
        secret.context.EvalMultKeyGen(secret.secret_key)
        data = relinearisation_to_bytes(tag)
    ServerContext(secret.context, tag, secret.parameters).release()
    return data


def _check_folder(folder: Path, plan: Plan, keys: KeysInfo) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FheCompileError(
            "keys-exist",
            "there is something already, and keys are not overwritten",
            node=str(folder),
            hint="choose a new folder with --out, or remove it if its keys are no longer needed",
        )
    if not folder.parent.is_dir():
        raise _no_folder(folder, f"there is no folder {folder.parent}")
    _check_space(folder.parent, folder, plan, keys, "--out")


def _check_space(there: Path, folder: Path, plan: Plan, keys: KeysInfo, option: str) -> None:
    needed, free = keys.count * plan.parameters.key_bytes, shutil.disk_usage(there).free
    if needed > free:
        raise FheCompileError(
            "disk-full",
            f"the evaluation keys take {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free",
            node=str(folder),
            hint=f"choose another place with {option}, or compile with fewer keys (--max-keys)",
            exit_code=EXIT_ENVIRONMENT,
        )


def _no_folder(folder: Path, reason: str) -> FheCompileError:
    return FheCompileError(
        "cannot-write",
        f"cannot make the folder ({reason})",
        node=str(folder),
        hint="choose another place with --out",
    )


def describe_keys(folder: Path) -> dict[str, Any]:
    """Sizes in bytes of the files in a folder of keys, by name."""
    return {name: (folder / name).stat().st_size for name in (SECRET, PUBLIC, EVALUATION)}
