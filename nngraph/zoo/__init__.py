"""Populations of networks: fitted to images many at once, stored in shards, read back."""

from nngraph.drawing.zoos import draw_contact_sheet, draw_histograms
from nngraph.zoo.augment import Augmentation
from nngraph.zoo.classifiers import Classifier, ClassifierSpec
from nngraph.zoo.curation import append_networks, create_zoo, filter_zoo, merge_zoos
from nngraph.zoo.facts import SPLITS, Fact
from nngraph.zoo.fit import FitResult, fit_images
from nngraph.zoo.idx import load_idx_folder, read_idx
from nngraph.zoo.inits import fourier_architecture
from nngraph.zoo.manifest import Manifest, Origin, SplitPolicy
from nngraph.zoo.plan import draw_architectures
from nngraph.zoo.pngs import load_png_folder
from nngraph.zoo.population import fit_zoo, suggested_settings
from nngraph.zoo.recipes import RECIPES, Recipe
from nngraph.zoo.render import render
from nngraph.zoo.running import runner_of, says_how_to_run
from nngraph.zoo.selection import select
from nngraph.zoo.settings import FitSettings
from nngraph.zoo.siren import pixel_coordinates, siren_architecture
from nngraph.zoo.sources import ImageSource, load_digits_images
from nngraph.zoo.storage import Zoo
from nngraph.zoo.trained import classifier_of, train_zoo
from nngraph.zoo.training import LabelledImages
from nngraph.zoo.verification import find_problems

__all__ = [
    "RECIPES",
    "SPLITS",
    "Augmentation",
    "Classifier",
    "ClassifierSpec",
    "Fact",
    "FitResult",
    "FitSettings",
    "ImageSource",
    "LabelledImages",
    "Manifest",
    "Origin",
    "Recipe",
    "SplitPolicy",
    "Zoo",
    "append_networks",
    "classifier_of",
    "create_zoo",
    "draw_architectures",
    "draw_contact_sheet",
    "draw_histograms",
    "filter_zoo",
    "find_problems",
    "fit_images",
    "fit_zoo",
    "fourier_architecture",
    "load_digits_images",
    "load_idx_folder",
    "load_png_folder",
    "merge_zoos",
    "pixel_coordinates",
    "read_idx",
    "render",
    "runner_of",
    "says_how_to_run",
    "select",
    "siren_architecture",
    "suggested_settings",
    "train_zoo",
]
