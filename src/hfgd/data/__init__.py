"""Data sets, label maps, augmentation, loaders. Everything left of the model."""
