"""Settings of populations of networks and of training: plain values that need no torch.

Functions of the library take them, and the command line is derived from them.
"""

from nngraph.settings.fitting import FitSettings, FitZooSettings
from nngraph.settings.importing import ImportSettings
from nngraph.settings.recipes import OPTIMISERS, RECIPES, WEIGHT_INITS, Recipe, TrainZooSettings
from nngraph.settings.training import TrainSettings

__all__ = [
    "OPTIMISERS", "RECIPES", "WEIGHT_INITS", "FitSettings", "FitZooSettings", "ImportSettings",
    "Recipe", "TrainSettings", "TrainZooSettings",
]
