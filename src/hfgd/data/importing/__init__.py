"""Import, split and prepare data sets."""
