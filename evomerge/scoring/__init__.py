"""What is good: tasks scored on an engine, and one number out of them."""

from evomerge.scoring.fitness import Fitness, Shorten, Task, fitness_value, interval, shares

__all__ = ["Fitness", "Shorten", "Task", "fitness_value", "interval", "shares"]
