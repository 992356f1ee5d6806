"""Settings of populations of networks and of training: plain values that need no torch.

Functions of the library take them, and the command line is derived from them.
"""

from nngraph.settings.fitting import FitSettings, FitZooSettings
from nngraph.settings.importing import ImportSettings
from nngraph.settings.recipes import (
    OPTIMISERS,
    RECIPES,
    STYLES,
    WEIGHT_INITS,
    AdapterRecipe,
    Recipe,
    TrainZooSettings,
)
from nngraph.settings.training import TrainSettings

__all__ = [
    "OPTIMISERS", "RECIPES", "STYLES", "WEIGHT_INITS", "AdapterRecipe", "FitSettings",
    "FitZooSettings", "ImportSettings", "Recipe", "TrainSettings", "TrainZooSettings",
]
