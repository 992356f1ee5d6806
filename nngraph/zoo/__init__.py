"""Populations of networks: fitted to images many at once, stored in shards, read back."""

from nngraph.settings import (
    RECIPES,
    STYLES,
    AdapterRecipe,
    FitSettings,
    FitZooSettings,
    ImportSettings,
    Recipe,
    TrainZooSettings,
)
from nngraph.zoo.classifiers.adapters import styled
from nngraph.zoo.classifiers.spec import Classifier, ClassifierSpec
from nngraph.zoo.classifiers.trained import classifier_of, runner_of, says_how_to_run, train_zoo
from nngraph.zoo.classifiers.training import LabelledImages
from nngraph.zoo.classifiers.transformer import TransformerSpec, train_base
from nngraph.zoo.fitting.fit import FitResult, fit_images
from nngraph.zoo.fitting.inits import fourier_architecture, siren_architecture
from nngraph.zoo.fitting.population import draw_architectures, fit_zoo, suggested_settings
from nngraph.zoo.fitting.render import pixel_coordinates, psnr_of, render
from nngraph.zoo.images.augment import Augmentation
from nngraph.zoo.images.idx import load_idx_folder, read_idx
from nngraph.zoo.images.named import SOURCES, Source, load_images, load_train_and_test
from nngraph.zoo.images.pngs import load_png_folder
from nngraph.zoo.sources import ImageSource, load_digits_images
from nngraph.zoo.store.curation import append_networks, create_zoo, filter_zoo, merge_zoos
from nngraph.zoo.store.facts import SPLITS, Fact, histogram, is_text
from nngraph.zoo.store.frames import plain_column
from nngraph.zoo.store.manifest import Malformed, Manifest, Origin, SplitPolicy
from nngraph.zoo.store.selection import select
from nngraph.zoo.store.shards import DTYPES, Shard
from nngraph.zoo.store.splits import policy_of, split_of_groups
from nngraph.zoo.store.writing import write_zoo
from nngraph.zoo.store.zoo import Zoo, find_problems

__all__ = [
    "DTYPES", "RECIPES", "SOURCES", "SPLITS", "STYLES", "AdapterRecipe", "Augmentation",
    "Classifier", "ClassifierSpec", "Fact", "FitResult", "FitSettings", "FitZooSettings",
    "ImageSource", "ImportSettings", "LabelledImages", "Malformed", "Manifest", "Origin", "Recipe",
    "Shard", "Source", "SplitPolicy", "TrainZooSettings", "TransformerSpec", "Zoo",
    "append_networks", "classifier_of", "create_zoo", "draw_architectures", "filter_zoo",
    "find_problems", "fit_images", "fit_zoo", "fourier_architecture", "histogram", "is_text",
    "load_digits_images", "load_idx_folder", "load_images", "load_png_folder",
    "load_train_and_test", "merge_zoos", "pixel_coordinates", "plain_column", "policy_of",
    "psnr_of", "read_idx", "render", "runner_of", "says_how_to_run", "select", "siren_architecture",
    "split_of_groups", "styled", "suggested_settings", "train_base", "train_zoo", "write_zoo",
]
