"""From a search YAML to a validated search: the one place where its parts are put together."""
