"""Tokens, filtered logits or next states."""
