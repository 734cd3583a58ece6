"""From a configuration to objects and through a run: the only callers of Hydra's `instantiate`."""
