"""Standard Flax (Linen) networks."""
