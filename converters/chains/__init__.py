"""Chains of affine maps: found in a module's forward, and made into graphs."""
