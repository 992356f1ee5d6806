"""Populations of networks that each represent an image."""
