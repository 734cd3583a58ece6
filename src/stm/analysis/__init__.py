"""Reports and figures of evaluations and sweeps."""
