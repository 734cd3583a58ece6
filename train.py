"""Train a space-time memory network: `python train.py --help`."""

from stm.train import main

if __name__ == "__main__":
    main()
