"""Evaluate a checkpoint on a benchmark: `python evaluate.py --help`."""

from hydra import main
from omegaconf import DictConfig

from stm.commandline import check_command_line, mistakes_without_traceback


@main(version_base="1.3", config_path="conf", config_name="evaluate")
def run(config: DictConfig) -> float | None:
    """Evaluate as configured; the imports wait until here so that --help answers at once."""
    with mistakes_without_traceback("evaluate.py"):
        from stm.runtime import evaluate_checkpoint

        return evaluate_checkpoint(config)


if __name__ == "__main__":
    check_command_line("evaluate")
    run()
