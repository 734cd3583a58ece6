"""Checks of a data set on disk, and safe repairs of its masks."""
