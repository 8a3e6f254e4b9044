"""Configs of the contrastive losses."""
