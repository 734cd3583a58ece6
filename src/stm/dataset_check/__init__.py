"""What is wrong with a data set on disk, and what of it can be mended safely."""
