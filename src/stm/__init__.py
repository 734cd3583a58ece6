"""Space-Time Memory networks for video object segmentation (Oh et al., ICCV 2019)."""
