"""Estimates and bounds of information and of generalisation."""
