"""`python -m stm.cli.tool`: `stm segment` by another name, with the same flags."""

from __future__ import annotations

import sys

from stm.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["segment", *sys.argv[1:]]))
