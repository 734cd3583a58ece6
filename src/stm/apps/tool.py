"""`python -m stm.apps.tool`: `stm segment` by another name, with the same flags."""

from __future__ import annotations

import sys

from stm.apps.cli import run

if __name__ == "__main__":
    sys.exit(run(["segment", *sys.argv[1:]]))
