"""The run's database."""
