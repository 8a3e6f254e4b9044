"""One module a task family."""
