"""The command ``nngraph``; :func:`main` runs one command line."""

from nngraph.cli.app import main

__all__ = ["main"]
