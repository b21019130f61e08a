"""`python -m fhecompile`: the command line of `fhecompile.cli`."""

from __future__ import annotations

import sys

from fhecompile.cli import main

if __name__ == "__main__":
    sys.exit(main())
