"""Configs of the samplers."""
