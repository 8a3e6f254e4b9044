"""Configs of the losses."""
