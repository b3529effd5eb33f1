"""Augmentation: each operation first draws its values, then applies them. ``pipeline.py`` runs them."""
