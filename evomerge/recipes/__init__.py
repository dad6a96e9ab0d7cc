"""Recipes: what a merged model is made of, and the YAML it travels in."""

from evomerge.recipes._segments import Lineage, LineageStep, Segments
from evomerge.recipes._settings import ROLES, Scalar
from evomerge.recipes._stack import BASE, SCALE_SPAN, other_base
from evomerge.recipes._tokenizer import AUTO, Tokenizer, TokenRow
from evomerge.recipes.recipe import Recipe

__all__ = [
    "AUTO",
    "BASE",
    "ROLES",
    "SCALE_SPAN",
    "Lineage",
    "LineageStep",
    "Recipe",
    "Scalar",
    "Segments",
    "TokenRow",
    "Tokenizer",
    "other_base",
]
