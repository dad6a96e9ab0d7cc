"""Recipes: what a merged model is made of, and the YAML it travels in."""

from evomerge.recipes.recipe import DTYPES, ROLES, Lineage, Recipe, Step, Tokenizer, TokenRow

__all__ = ["DTYPES", "ROLES", "Lineage", "Recipe", "Step", "TokenRow", "Tokenizer"]
