"""What is good: tasks scored on an engine, and what is made of their scores."""

from evomerge.scoring.fitness import Fitness, Task
from evomerge.scoring.shorten import Shorten
from evomerge.scoring.value import fitness_value, interval, shares

__all__ = ["Fitness", "Shorten", "Task", "fitness_value", "interval", "shares"]
