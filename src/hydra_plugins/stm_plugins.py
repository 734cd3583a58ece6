"""The plugins of `stm.sweeps` for Hydra, which only accepts classes of the package `hydra_plugins`."""

from stm.sweeps import search_sweeper, slurm_launcher, staged_sweeper


class StagedSweeper(staged_sweeper.StagedSweeper):
    """See `stm.sweeps.staged_sweeper.StagedSweeper`."""


class SearchSweeper(search_sweeper.SearchSweeper):
    """See `stm.sweeps.search_sweeper.SearchSweeper`."""


class SlurmLauncher(slurm_launcher.SlurmLauncher):
    """See `stm.sweeps.slurm_launcher.SlurmLauncher`."""
