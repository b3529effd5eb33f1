"""A model as an HTTP service. Nothing in here imports torch: an exported file runs without it."""
