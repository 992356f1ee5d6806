"""nngraph: neural networks as graphs, and models that read their weights."""
