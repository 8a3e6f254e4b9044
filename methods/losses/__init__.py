"""Objectives on arrays, lower is better."""
