"""What the equivariant linear layer computes: its terms, and the ways to run them."""
