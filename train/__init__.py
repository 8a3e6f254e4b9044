"""The engine: state, sharded step, loop, data, checkpoints, experiments, command line."""
