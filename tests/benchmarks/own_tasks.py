"""All small tasks, by name."""

from own_task import Task
from own_tasks_generative import GENERATIVE_TASKS
from own_tasks_images import IMAGE_TASKS
from own_tasks_puzzles import PUZZLE_TASKS
from own_tasks_tables import TABLE_TASKS
from own_tasks_text import TEXT_TASKS

__all__ = ["TASKS"]

TASKS: dict[str, Task] = IMAGE_TASKS | GENERATIVE_TASKS | TEXT_TASKS | TABLE_TASKS | PUZZLE_TASKS
