"""The models, a file each; published ones under their published names."""
