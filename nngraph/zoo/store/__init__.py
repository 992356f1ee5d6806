"""Zoos on disk: shards, manifests, facts, splits; written, read, checked and joined."""
