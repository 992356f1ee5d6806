"""From weights and biases to the first states of neurons and weights."""
