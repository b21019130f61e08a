"""Make ``.venv`` with an interpreter that can load OpenFHE: ``python3 setup_env.py``.

OpenFHE publishes one wheel per CPython version (3.10 and 3.12, x86-64 Linux), so the interpreter
decides whether a machine can run encrypted. Interpreters are looked for on PATH, in pyenv and in
uv; then uv is asked to fetch 3.10. Where none can load OpenFHE, the environment is made with one
that can compile and simulate, and the output says so.

``--train`` makes ``.venv-train``, where the tests of training run: with torch's build for CPUs, as
PyPI's brings gigabytes of CUDA, and with the first interpreter that pip finds such a wheel for.

``ready.json`` in an environment is written last and holds a digest of the dependencies: while it
matches, a call does nothing; without it the environment is not finished and is made again.

Standard library only; runs on Python 3.8 or newer.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import fcntl
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from typing import NamedTuple

ROOT = os.path.dirname(os.path.realpath(__file__))

# The local version keeps pip from PyPI's wheel, which is the one for CUDA.
CPU_TORCH = "torch==2.13.0+cpu"
CPU_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
NO_CUDA = """
import importlib.util, torch
assert torch.version.cuda is None and importlib.util.find_spec("nvidia") is None, "built for CUDA"
"""

# What each OpenFHE wheel asks of the system, read from its binaries: glibc, and the highest symbol
# version GLIBCXX_3.4.x of libstdc++.
OPENFHE_NEEDS = {(3, 10): ((2, 34), 29), (3, 12): ((2, 38), 32)}
COMPILE_ONLY = [(3, 11), (3, 12), (3, 10)]  # in order of preference

PROBE = r"""
import json, os, platform, re, sys
def glibc():
    try:
        return [int(n) for n in re.findall(r"\d+", os.confstr("CS_GNU_LIBC_VERSION"))[:2]]
    except (AttributeError, OSError, TypeError, ValueError):
        return []
def glibcxx():  # the copy this interpreter loads; None: cannot tell
    try:
        import ctypes
        ctypes.CDLL("libstdc++.so.6")
        path = next(l.split()[-1] for l in open("/proc/self/maps") if "libstdc++.so" in l)
        return max(map(int, re.findall(rb"GLIBCXX_3\.4\.(\d+)", open(path, "rb").read())))
    except ImportError:
        return None
    except (OSError, StopIteration, ValueError):
        return 0
def has_pip():
    try:
        import ensurepip, venv
    except ImportError:
        return False
    return True
print(json.dumps({
    "path": getattr(sys, "_base_executable", None) or sys.executable,
    "cpython": sys.implementation.name == "cpython",
    "version": sys.version_info[:3],
    "system": sys.platform + " " + platform.machine(),
    "glibc": glibc(), "glibcxx": glibcxx(), "has_pip": has_pip(),
}))
"""

GET_PYTHON = """\
  Encrypted runs need x86-64 Linux and CPython 3.10 (Ubuntu 22.04, Debian 12 or newer)
  or CPython 3.12 (Ubuntu 24.04 or newer). Get one of them by any of
    pip install uv                              (set-up then fetches Python 3.10 itself)
    pyenv install 3.10
    apt install python3.10 python3.10-venv      (Ubuntu 22.04)
    apt install python3.12 python3.12-venv      (Ubuntu 24.04)
  and then call: python3 setup_env.py --rebuild"""

GET_TORCH = f"""\
  Its wheels are at {CPU_TORCH_INDEX}; where that cannot be reached,
  PIP_FIND_LINKS=FOLDER names a folder that holds one. The other tests do without: make test"""


class Environment(NamedTuple):
    """A folder beside this file and what goes into it."""

    name: str
    extras: str
    pinned: str = ""  # a requirement besides fhecompile[extras]
    library: str = "fhecompile"  # has to load, or another interpreter is tried
    check: str = "import fhecompile"  # program that fails where it does not

    def path(self, *parts: str) -> str:
        return os.path.join(ROOT, self.name, *parts)


ENCRYPTED = Environment(".venv", "runtime,dev", library="OpenFHE", check="import openfhe")
COMPILING = Environment(".venv", "dev")
TRAINING = Environment(".venv-train", "test,train", CPU_TORCH, "torch", NO_CUDA)


class SetupError(Exception):
    """The environment cannot be made; the text says what to do."""


class InterpreterError(Exception):
    """This interpreter will not do; another may."""


class CommandError(Exception):
    """An outside command failed; the text is its last line."""


def say(text: str) -> None:
    print("setup: " + text, flush=True)


def run(*command: str) -> str:
    """Standard output of a command; raises `CommandError` with the last line it printed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=environ(), timeout=1800
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(str(error)) from None
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise CommandError(said[-1].strip() if said else f"exit code {done.returncode}")
    return done.stdout.strip()


def environ() -> dict:
    """The caller's environment without what would lead pip astray; patient by default."""
    astray = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
    kept = {name: value for name, value in os.environ.items() if name not in astray}
    return {"PIP_DEFAULT_TIMEOUT": "60", "PIP_RETRIES": "8", **kept}


# -- interpreters ----------------------------------------------------------------------------------


def dotted(version: tuple | list) -> str:
    return ".".join(map(str, version))


def name_of(info: dict) -> str:
    return "Python {} ({})".format(dotted(info["version"]), info["path"])


@functools.lru_cache(maxsize=None)
def probe(executable: str) -> dict | None:
    """Describe an interpreter by running it; None if it is not a CPython that runs."""
    with contextlib.suppress(CommandError, ValueError):
        info = json.loads(run(executable, "-I", "-c", PROBE))
        return info if info["cpython"] else None
    return None


def uv(*args: str) -> str:
    """Output of a uv command; raises `CommandError` where there is no uv or it fails."""
    places = map(os.path.expanduser, ("~/.local/bin/uv", "~/.cargo/bin/uv"))
    program = shutil.which("uv") or next((p for p in places if os.access(p, os.X_OK)), None)
    if program is None:
        raise CommandError("uv is not installed")
    return run(program, *args)


def executables(version: tuple[int, int]):
    """Paths that may be an interpreter of this version."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        yield os.path.join(folder, "python" + dotted(version))
        yield os.path.join(folder, "python3")
    yield sys.executable
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    installed = glob.glob(os.path.join(pyenv, "versions", dotted(version) + ".*", "bin", "python"))
    yield from sorted(installed, key=lambda p: list(map(int, re.findall(r"\d+", p))), reverse=True)
    with contextlib.suppress(CommandError):
        only_its_own = ("--python-preference", "only-managed", "--no-python-downloads")
        yield uv("python", "find", *only_its_own, dotted(version))


def interpreters(version: tuple[int, int]):
    """The interpreters of this version on this machine, each once."""
    seen = set()
    for path in executables(version):
        usable = os.path.isabs(path) and os.path.isfile(path) and os.access(path, os.X_OK)
        info = probe(path) if usable else None
        if info is None or tuple(info["version"][:2]) != version:
            continue
        if os.path.realpath(info["path"]) not in seen:
            seen.add(os.path.realpath(info["path"]))
            yield info


def why_no_openfhe(info: dict) -> str:
    """Why this interpreter cannot load OpenFHE on this machine; empty if it should."""
    version = tuple(info["version"][:2])
    if info["system"] != "linux x86_64":
        return "OpenFHE's wheels are for linux x86_64, this is " + info["system"]
    if version not in OPENFHE_NEEDS:
        return "OpenFHE has no wheel for Python " + dotted(version)
    glibc, glibcxx = OPENFHE_NEEDS[version]
    if tuple(info["glibc"]) < glibc:
        has = dotted(info["glibc"]) or "another C library"
        return f"its OpenFHE wheel needs glibc {dotted(glibc)}, this system has {has}"
    if info["glibcxx"] is not None and info["glibcxx"] < glibcxx:
        has = "ends at 3.4.{}".format(info["glibcxx"]) if info["glibcxx"] else "is missing"
        return f"its OpenFHE wheel needs GLIBCXX_3.4.{glibcxx}, this system's libstdc++ {has}"
    return ""


# -- the environment -------------------------------------------------------------------------------


def digest(env: Environment) -> str:
    """Digest of the dependencies and the place: an environment cannot be moved."""
    with open(os.path.join(ROOT, "pyproject.toml"), encoding="utf-8") as file:
        dependencies = file.read().split("\n[tool.")[0]
    return hashlib.sha256((ROOT + "\n" + dependencies + env.pinned).encode()).hexdigest()


def read_stamp(env: Environment) -> dict:
    """What a finished environment says of itself; empty where there is none."""
    try:
        with open(env.path("ready.json"), encoding="utf-8") as file:
            return json.load(file) if os.path.exists(env.path("bin", "python")) else {}
    except (OSError, ValueError):
        return {}


def remove(env: Environment) -> None:
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(env.path("ready.json"))  # first: if interrupted, it must not look finished
        if os.path.lexists(env.path()):
            shutil.rmtree(env.path())
    except OSError as error:
        raise SetupError(f"cannot remove {env.path()} ({error}); remove it by hand") from None


def make_venv(env: Environment, info: dict) -> None:
    try:
        if info["has_pip"]:
            run(info["path"], "-I", "-m", "venv", env.path())
        else:
            uv("venv", "--seed", "--python", info["path"], env.path())
    except CommandError as error:
        lack = "" if info["has_pip"] else "no ensurepip (Debian: apt install python{}-venv); "
        raise InterpreterError(lack.format(dotted(info["version"][:2])) + str(error)) from None


def install(env: Environment, *options: str) -> None:
    """One call of pip; its progress on one line of a terminal, or a line every 30 seconds."""
    # What is not compiled now is compiled when it is first imported; most of torch never is.
    options = ("--disable-pip-version-check", "--no-compile", "--progress-bar", "off", *options)
    command = [env.path("bin", "python"), "-m", "pip", "install", *options]
    command += ["--editable", f".[{env.extras}]", *env.pinned.split()]
    terminal, spoke, tail = sys.stdout.isatty(), time.monotonic(), collections.deque(maxlen=25)
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environ(), **output) as pip:
        for line in pip.stdout:
            tail.append(line.rstrip())
            if terminal:
                print("\r\033[K  " + line.strip()[:76], end="", flush=True)
            elif time.monotonic() - spoke > 30:
                spoke = time.monotonic()
                print("  " + line.strip()[:90], flush=True)
    if terminal:
        print("\r\033[K", end="", flush=True)
    if pip.returncode != 0:
        if env.pinned and "No matching distribution found for " + env.pinned in "\n".join(tail):
            raise InterpreterError(f"pip finds no {env.pinned} for it")
        shown = "\n    ".join(tail)
        raise SetupError(
            f"pip could not install fhecompile[{env.extras}]. Its last lines:\n    {shown}\n"
            "  If the package index could not be reached, set PIP_INDEX_URL or PIP_PROXY and call\n"
            "  again; pip keeps what it has downloaded."
        )


def build(env: Environment, info: dict) -> None:
    """Make the environment from this interpreter and stamp it, or leave nothing behind."""
    stamp = {"digest": digest(env), "python": dotted(info["version"])}
    remove(env)
    try:
        say(f"making {env.name} with {name_of(info)}")
        make_venv(env, info)
        say(f"installing fhecompile[{env.extras}]; the first time takes some minutes")
        try:
            install(env)
        except InterpreterError:  # not where this machine's pip looks
            say(f"looking for {env.pinned} at {CPU_TORCH_INDEX}")
            install(env, "--extra-index-url", CPU_TORCH_INDEX)
        try:
            run(env.path("bin", "python"), "-I", "-c", env.check)
        except CommandError as error:
            raise InterpreterError(f"{env.library} does not load: {error}") from None
        with open(env.path("ready.json.tmp"), "w", encoding="utf-8") as file:
            json.dump({**stamp, "encrypted": env is ENCRYPTED}, file)
        os.replace(env.path("ready.json.tmp"), env.path("ready.json"))
    except BaseException:
        with contextlib.suppress(SetupError):
            remove(env)
        raise


def build_with(executable: str, training: bool) -> None:
    """Build with the interpreter asked for and no other."""
    info = probe(shutil.which(executable) or executable)
    if info is None or tuple(info["version"][:2]) not in COMPILE_ONLY:
        raise SetupError(f"{executable} is not a working CPython 3.10, 3.11 or 3.12")
    reason = "" if training else why_no_openfhe(info)
    try:
        build(TRAINING if training else COMPILING if reason else ENCRYPTED, info)
    except InterpreterError as error:
        raise SetupError(f"{name_of(info)}: {error}") from None
    if reason:
        say("encrypted runs are not possible here: " + reason)


def built(env: Environment, version: tuple[int, int]) -> bool:
    """Try this machine's interpreters of this version; say why each that is not taken is not."""
    for info in interpreters(version):
        reason = why_no_openfhe(info) if env is ENCRYPTED else ""
        if not reason:
            try:
                build(env, info)
                return True
            except InterpreterError as error:
                reason = str(error)
        say(f"not {name_of(info)}: {reason}")
    return False


def build_with_first_that_works(training: bool) -> None:
    """Build with an interpreter that can load OpenFHE, else with one that can compile."""
    if training:
        if not any(built(TRAINING, version) for version in COMPILE_ONLY):
            raise SetupError(f"no CPython 3.10, 3.11 or 3.12 here can use {CPU_TORCH}\n{GET_TORCH}")
        return
    if any(built(ENCRYPTED, version) for version in OPENFHE_NEEDS):
        return
    with contextlib.suppress(CommandError):
        uv("--version")
        say("fetching Python 3.10 with uv")
        try:
            uv("python", "install", "3.10")
        except CommandError as error:
            say(f"uv could not fetch it: {error}")
        else:
            if built(ENCRYPTED, (3, 10)):
                return
    say("no Python found that can load OpenFHE; looking for one that can compile and simulate")
    if not any(built(COMPILING, version) for version in COMPILE_ONLY):
        raise SetupError("no usable CPython 3.10, 3.11 or 3.12 found\n" + GET_PYTHON)
    print(GET_PYTHON)


def main(arguments: list[str] | None = None) -> int:
    """Make the environment unless it is there."""
    parser = argparse.ArgumentParser(description="Make .venv for fhecompile.")
    parser.add_argument("--python", metavar="EXE", help="use this interpreter (implies --rebuild)")
    parser.add_argument("--rebuild", action="store_true", help="make the environment again")
    parser.add_argument("--train", action="store_true", help="make .venv-train, which has torch")
    args = parser.parse_args(arguments)
    env = TRAINING if args.train else ENCRYPTED
    try:
        with open(__file__, encoding="utf-8") as lock:  # one set-up at a time
            fcntl.flock(lock, fcntl.LOCK_EX)
            if args.python:
                build_with(args.python, args.train)
            elif args.rebuild or read_stamp(env).get("digest") != digest(env):
                build_with_first_that_works(args.train)
            stamp = read_stamp(env)
    except SetupError as error:
        print(f"setup: error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"setup: interrupted; {env.name} is not finished", file=sys.stderr)
        return 130
    what = "encrypted runs" if stamp["encrypted"] else "compile and simulate only, no OpenFHE"
    what = "training, no OpenFHE" if args.train else what
    say("{} is ready: Python {}, {}".format(env.name, stamp["python"], what))
    return 0


if __name__ == "__main__":
    sys.exit(main())
