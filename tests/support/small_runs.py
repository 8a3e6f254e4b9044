"""Every config of the package made small: the two arms of its claim, a few steps."""

SEEDS = (0, 1)

# experiment -> dotted key -> value
SMALLER = {
    "alignment": {"data.test_rows": 32, "model.num_layers": 1, "model.pretraining.steps": 2, "method.first_steps": 2},
    "classification": {"model.features": (4, 8)},
    "clustering": {"data.rows": 40, "data.tables": ("wine",)},
    "decoding": {"data.questions": 8, "model.num_layers": 1},
    "federated": {"method.local_steps": 2, "train.eval_every": 2},
    "knowledge_graph": {"data.num_names": 120},
    "language_model": {"data.window": 16, "model.num_layers": 1, "model.model_dim": 32, "model.mlp_dim": 64},
    "mutual_information": {"data.rows": 128},
    "reinforcement": {"train.eval_every": 2},
    "segmentation": {"model.num_layers": 1, "train.eval_batches": 1},
    "time_series": {"data.folds": 2, "data.num_subjects": 2, "data.trials_per_subject": 16, "train.batch_size": 8},
}
# of every experiment that trains
STEPS = {
    "train.steps": 4,
    "train.eval_every": 2,
    "train.log_every": 2,
    "train.steps_per_dispatch": 2,
    "optimizer.warmup_steps": 0,
}


def shrink(config):
    """The config with the values above in place of its own."""
    config.seeds = SEEDS
    config.arms = {arm: config.arms[arm] for arm in (config.claim.better, config.claim.than)}
    for key, value in (STEPS | SMALLER[config.experiment]).items():
        section = config
        *path, last = key.split(".")
        for name in path:
            section = section[name]
        if last in section:
            with section.unlocked():
                section[last] = value
    return config
