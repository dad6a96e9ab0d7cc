"""Tokenizers and vocabularies: the merged model's tokens, and the rows that belong to them."""
