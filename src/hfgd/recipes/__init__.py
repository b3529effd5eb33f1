"""Runs as values: ``spec.py`` what a recipe is, ``named.py`` the ones with a name."""

from hfgd.recipes.named import RECIPES, find_recipe
from hfgd.recipes.spec import Recipe, check_recipe, first_difference, parse_overrides

__all__ = [
    "RECIPES",
    "Recipe",
    "check_recipe",
    "find_recipe",
    "first_difference",
    "parse_overrides",
]
