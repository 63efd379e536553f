"""Low-rank adapters: what they are, where they go, and the layer that computes them."""
