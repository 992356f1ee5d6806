"""Primitives that pass over the edges once, tile by tile, forward and backward."""
