"""Configs of the quantizers."""
