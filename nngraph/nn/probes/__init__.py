"""Running the networks that are read, and what they answer to learned inputs."""
