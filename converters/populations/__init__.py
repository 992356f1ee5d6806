"""Populations of networks in other people's files into zoos, and zoos into such files."""

from converters.populations.exporting import export_checkpoints, export_huggingface
from converters.populations.importing import import_zoo
from converters.populations.low_rank import LowRankPairs

__all__ = ["LowRankPairs", "export_checkpoints", "export_huggingface", "import_zoo"]
