"""What metanetworks are trained for, and the one loop that trains them."""

from nngraph.settings import TrainSettings
from nngraph.tasks.catalogue import describe_models
from nngraph.tasks.comparison import compare_runs
from nngraph.tasks.matching import MatchNeurons
from nngraph.tasks.prediction import Classify, Predict
from nngraph.tasks.registry import TASKS, build_model, build_task
from nngraph.tasks.report import Report, finite
from nngraph.tasks.run_folder import load_run
from nngraph.tasks.task import Task, batch_answers, new_model
from nngraph.tasks.training import train

__all__ = [
    "TASKS", "Classify", "MatchNeurons", "Predict", "Report", "Task", "TrainSettings",
    "batch_answers", "build_model", "build_task", "compare_runs", "describe_models", "finite",
    "load_run", "new_model", "train",
]
