"""Objectives on pairs of embeddings."""
