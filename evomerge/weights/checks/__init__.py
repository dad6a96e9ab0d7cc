"""Why models cannot be merged, and what a user should know of a merge that can."""
