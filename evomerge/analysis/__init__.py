"""One reader of a run: its candidates, its speed, its ancestry, what is exported."""
