"""Optuna's sweeper, with a message in place of a traceback where every trial failed.

Hydra loads sweepers from the package `hydra_plugins`; `conf/sweep/search.yaml` selects this one.
"""

from typing import Any

from hydra.plugins.sweeper import Sweeper

from stm.config.user_errors import UserError


class SearchSweeper(Sweeper):
    """Runs the trials that Optuna proposes.

    Args:
        params: The arguments of hydra-optuna-sweeper's sweeper.
    """

    def __init__(self, **params: Any) -> None:
        # imported here because Hydra scans this module where Optuna is not installed, too
        from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper

        self.sweeper = OptunaSweeper(**params)

    def setup(self, **context: Any) -> None:
        """Pass the configuration on to Optuna's sweeper."""
        self.sweeper.setup(**context)

    def sweep(self, arguments: list[str]) -> None:
        """Run the search.

        Raises:
            UserError: No trial has a score.
        """
        try:
            self.sweeper.sweep(arguments)
        except ValueError as error:
            if "No trials are completed" not in str(error):
                raise
            raise UserError("no trial of the search has a score; table.md has the error of each") from error
