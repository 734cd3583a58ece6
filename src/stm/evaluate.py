"""Evaluate a checkpoint on a benchmark: `stm-evaluate --help`."""

import hydra
from omegaconf import DictConfig

from stm.config.overrides import check_command_line
from stm.config.schema import CONF
from stm.config.user_errors import user_errors_without_traceback


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def run(config: DictConfig) -> float | None:
    """Run as configured; heavy imports wait until here so that --help answers at once."""
    with user_errors_without_traceback("evaluate.py"):
        from stm.runs.evaluation_run import evaluate_run

        return evaluate_run(config)


def main() -> None:
    """Check the command line, then run."""
    check_command_line("evaluate")
    run()


if __name__ == "__main__":
    main()
