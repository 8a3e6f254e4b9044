"""Numerics that several methods share. Nothing here knows of any method."""
