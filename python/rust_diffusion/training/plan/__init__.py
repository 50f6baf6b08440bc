"""How long a run is to be, and what that means for it."""

from rust_diffusion.training.plan.budget import Budget, Length
from rust_diffusion.training.plan.recipes import RECIPES, Recipe, recipe

__all__ = [
    "RECIPES",
    "Budget",
    "Length",
    "Recipe",
    "recipe",
]
