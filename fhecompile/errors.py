"""The one error tree of the project.

`FheCompileError` is what a user can act on: it carries a stable `code`, the place (`node`), the
`reason` and a `hint` that says what to do; `exit_code` follows the command line's convention
(1 the check says no, 2 bad input or usage, 3 environment). `InternalError` is a bug of ours.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_CHECK_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_ENVIRONMENT = 3
EXIT_INTERNAL = 70


class FheCompileError(Exception):
    """Something the user can mend.

    Args:
        code: stable identifier in kebab case, e.g. `"unsupported-operator"`.
        reason: what is wrong, one sentence without a full stop.
        node: the layer, file or argument concerned; empty when there is none.
        hint: what to do about it, one sentence without a full stop.
        exit_code: exit status of the command line for this error.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        node: str = "",
        hint: str = "",
        exit_code: int = EXIT_BAD_INPUT,
    ) -> None:
        self.code = code
        self.reason = reason
        self.node = node
        self.hint = hint
        self.exit_code = exit_code
        super().__init__(self.render())

    def render(self) -> str:
        """The message as the command line prints it: place, reason, hint, code."""
        place = f"{self.node}: " if self.node else ""
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{place}{self.reason} [{self.code}]{hint}"


class InternalError(Exception):
    """A bug in fhecompile: an invariant of our own does not hold."""
