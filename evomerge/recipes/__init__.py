"""Recipes: what a merged model is made of, and the YAML it travels in."""

from evomerge.recipes._scales import SCALE_SPAN
from evomerge.recipes.recipe import DTYPES, ROLES, Lineage, LineageStep, Recipe, Tokenizer, TokenRow

__all__ = [
    "DTYPES",
    "ROLES",
    "SCALE_SPAN",
    "Lineage",
    "LineageStep",
    "Recipe",
    "TokenRow",
    "Tokenizer",
]
