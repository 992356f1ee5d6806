"""The edge update as one program on a GPU; needs triton."""
