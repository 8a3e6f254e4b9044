"""One module a paper, one folder a kind."""
