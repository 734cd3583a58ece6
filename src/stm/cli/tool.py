"""`python -m stm.cli.tool`, an alias of `stm segment` with the same options."""

from __future__ import annotations

import sys

from stm.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["segment", *sys.argv[1:]]))
