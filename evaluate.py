"""Evaluate a checkpoint on a benchmark: `python evaluate.py --help`."""

from stm.evaluate import main

if __name__ == "__main__":
    main()
