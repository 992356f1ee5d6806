"""Populations of networks: fitted to images many at once, stored in shards, read back."""

from nngraph.zoo.fit import FitResult, FitSettings, fit_images
from nngraph.zoo.idx import load_idx_folder, read_idx
from nngraph.zoo.population import fit_zoo, suggested_settings
from nngraph.zoo.render import render
from nngraph.zoo.siren import pixel_coordinates, siren_architecture
from nngraph.zoo.sources import ImageSource, load_digits_images
from nngraph.zoo.storage import SPLITS, Zoo

__all__ = [
    "SPLITS",
    "FitResult",
    "FitSettings",
    "ImageSource",
    "Zoo",
    "fit_images",
    "fit_zoo",
    "load_digits_images",
    "load_idx_folder",
    "pixel_coordinates",
    "read_idx",
    "render",
    "siren_architecture",
    "suggested_settings",
]
