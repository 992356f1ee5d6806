"""What layers and models share: features by level, scales, norms, sizes."""
