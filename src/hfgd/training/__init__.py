"""Training: optimiser and schedule, the Lightning module, ``fit``."""
