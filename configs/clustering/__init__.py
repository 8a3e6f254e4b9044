"""Configs of the clustering methods."""
