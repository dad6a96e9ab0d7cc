"""Recipes: what a merged model is made of, and the YAML it travels in."""

from evomerge.recipes.recipe import DTYPES, ROLES, Recipe, Tokenizer, TokenRow

__all__ = ["DTYPES", "ROLES", "Recipe", "TokenRow", "Tokenizer"]
