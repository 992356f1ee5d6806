"""From the states of neurons and weights to answers, and to new weights."""
