"""What to run the monitor on: recipes that really learn, by name.

The registry is plain Python; a recipe's module, its data and their libraries are imported when it runs.
"""

from lightning_adapt.recipes.registry import RECIPES, Recipe, find

__all__ = ["RECIPES", "Recipe", "find"]
