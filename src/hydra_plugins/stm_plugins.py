"""The plugins of `stm.sweeps`, where Hydra finds them: it accepts classes of the package `hydra_plugins` alone."""

from stm.sweeps import slurm_launcher, staged_sweeper


class StagedSweeper(staged_sweeper.StagedSweeper):
    """See `stm.sweeps.staged_sweeper.StagedSweeper`."""


class SlurmLauncher(slurm_launcher.SlurmLauncher):
    """See `stm.sweeps.slurm_launcher.SlurmLauncher`."""
