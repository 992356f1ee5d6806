"""What metanetworks are trained for, and the loop that trains them."""

from nngraph.tasks.classification import Evaluation, evaluate, prepare
from nngraph.tasks.settings import Report, TrainSettings
from nngraph.tasks.training import build_model, load_run, train

__all__ = [
    "Evaluation",
    "Report",
    "TrainSettings",
    "build_model",
    "evaluate",
    "load_run",
    "prepare",
    "train",
]
