"""Populations of networks in other people's files into zoos, and zoos into such files."""

from converters.populations.exporting import export_checkpoints, export_huggingface
from converters.populations.importing import import_zoo

__all__ = ["export_checkpoints", "export_huggingface", "import_zoo"]
