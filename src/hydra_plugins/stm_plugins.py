"""The plugins of `stm.sweeps` for Hydra, which only accepts classes of the package `hydra_plugins`."""

from stm.sweeps import slurm_launcher, staged_sweeper


class StagedSweeper(staged_sweeper.StagedSweeper):
    """See `stm.sweeps.staged_sweeper.StagedSweeper`."""


class SlurmLauncher(slurm_launcher.SlurmLauncher):
    """See `stm.sweeps.slurm_launcher.SlurmLauncher`."""
