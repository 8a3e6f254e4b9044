"""Configs of the layers."""
