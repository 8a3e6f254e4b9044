"""One paper's own world each: its data, its environment, its baselines."""
