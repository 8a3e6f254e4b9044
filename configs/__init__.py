"""ml_collections configs, one file a method."""
