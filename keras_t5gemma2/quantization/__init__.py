"""Weights of few bits: how they are made, the layers that have them, and which layers get them."""
