"""Configs of the bounds."""
