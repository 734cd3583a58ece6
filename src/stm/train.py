"""Train a space-time memory network: `stm-train --help`."""

import hydra
from omegaconf import DictConfig

from stm.config.overrides import check_command_line
from stm.config.schema import CONF
from stm.config.user_errors import user_errors_without_traceback


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def run(config: DictConfig) -> float | None:
    """Run as configured; heavy imports wait until here so that --help answers at once."""
    with user_errors_without_traceback("train.py"):
        from stm.runs.training_run import train

        return train(config)


def main() -> None:
    """Check the command line, then run."""
    check_command_line("train")
    run()


if __name__ == "__main__":
    main()
