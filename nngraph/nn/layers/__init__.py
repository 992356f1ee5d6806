"""Layers on the states of neurons and weights."""
