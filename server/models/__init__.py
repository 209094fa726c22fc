"""Models: which there are, what serves them, and `/v1/models`."""
