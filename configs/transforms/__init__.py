"""Configs of the transforms."""
