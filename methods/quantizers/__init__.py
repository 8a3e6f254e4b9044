"""Codes, scales and reconstructions."""
