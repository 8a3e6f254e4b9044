"""One program: task, sources, step, loop, checkpoints, mesh. It knows of no experiment, arm or claim."""
