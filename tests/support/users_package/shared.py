"""What the configs beside it share."""

TRAIN = dict(steps=40, batch_size=16, steps_per_dispatch=2, log_every=10, eval_every=20, checkpoint_every=10)
TABLE = dict(name="rows.csv", columns=dict(inputs=("height", "width", "weight"), label="kind"))
