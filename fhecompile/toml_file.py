"""Files of tables in TOML, of which the keys are known."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fhecompile.errors import FheCompileError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_tables(path: Path, keys: Sequence[str], code: str) -> dict[str, dict[str, Any]]:
    """The tables of a file by name; their values are not looked at.

    Args:
        path: the file.
        keys: what a table may have.
        code: of the errors.

    Raises:
        FheCompileError: the file cannot be read, or holds anything but tables of these keys.
    """

    def wrong(reason: str, hint: str = "") -> FheCompileError:
        return FheCompileError(code, reason, node=str(path), hint=hint)

    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise wrong(f"cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise wrong(f"is not TOML: {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise wrong(f"{name} is not a table", f'write ["{name}"], and its keys below it')
        for key in table:
            if key not in keys:
                raise wrong(f"[{name}] has the unknown key {key}", f"keys are: {', '.join(keys)}")
    return tables
