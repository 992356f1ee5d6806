"""Populations of trained image classifiers."""
