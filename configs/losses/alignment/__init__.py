"""Configs of the alignment losses."""
