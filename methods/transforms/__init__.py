"""Gradient transformations, masks and new weights."""
