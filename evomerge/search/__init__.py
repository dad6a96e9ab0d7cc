"""The search loop: what is searched, how it goes on, and which candidates it prefers."""
