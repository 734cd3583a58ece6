"""Train a space-time memory network: `python train.py --help`."""

from hydra import main
from omegaconf import DictConfig

from stm.commandline import check_command_line, mistakes_without_traceback


@main(version_base="1.3", config_path="conf", config_name="train")
def run(config: DictConfig) -> float | None:
    """Train as configured; the imports wait until here so that --help answers at once."""
    with mistakes_without_traceback("train.py"):
        from stm.runtime import train

        return train(config)


if __name__ == "__main__":
    check_command_line("train")
    run()
