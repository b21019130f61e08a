"""A process that does not outlive the one that started it, whatever ends that one.

Linux sends the signal of prctl(PR_SET_PDEATHSIG) to a process when its parent ends; execve keeps
the setting. A parent that has ended before the call is noticed by its number.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError

PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Has this process killed when its parent ends; ends it at once if it is no child of `parent`.

    The parent is the *thread* that started this process.
    """
    if not sys.platform.startswith("linux"):
        raise FheCompileError(
            "not-linux",
            "only Linux can end a process with its parent",
            hint="leave --end-with out",
            exit_code=EXIT_ENVIRONMENT,
        )
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)
