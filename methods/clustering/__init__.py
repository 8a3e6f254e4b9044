"""Assignments and cluster parameters."""
