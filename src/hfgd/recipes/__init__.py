"""Runs as values: ``spec.py`` what a recipe is, ``tables.py`` the paper's rows, ``named.py`` names."""

from hfgd.recipes.named import RECIPES, find_recipe, toy
from hfgd.recipes.spec import Recipe, check_recipe, first_difference, parse_overrides
from hfgd.recipes.tables import ROWS, TABLES, PaperRow

__all__ = [
    "RECIPES",
    "ROWS",
    "TABLES",
    "PaperRow",
    "Recipe",
    "check_recipe",
    "find_recipe",
    "first_difference",
    "parse_overrides",
    "toy",
]
