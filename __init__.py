"""The methods of some 130 machine-learning papers as pure JAX functions."""
