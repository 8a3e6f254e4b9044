"""Flax modules, and functions that one applies."""
