"""Every config of the package made small: all of its arms for a few steps, with the sizes that its experiment names."""

from lemmata.train import experiments

SEEDS = (0, 1)

# of every experiment that trains
STEPS = {
    "train.steps": 4,
    "train.eval_every": 2,
    "train.log_every": 2,
    "train.steps_per_dispatch": 2,
    "optimizer.warmup_steps": 0,
}


def shrink(config, arms=None):
    """The config with the values above, and those of its experiment's `SMALL`, in place of its own.

    Args:
        config: as `load` gives it.
        arms: those that are kept; None keeps them all.
    """
    config.seeds = SEEDS
    if arms is not None:
        config.arms = {arm: config.arms[arm] for arm in arms}
    for key, value in (STEPS | experiments.get(config.experiment).module.SMALL).items():
        section = config
        *path, last = key.split(".")
        for name in path:
            section = section[name]
        if last in section or path == ["protocol"]:
            with section.unlocked():
                section[last] = value
        else:
            raise ValueError(f"SMALL of {config.experiment}: no key {key!r}.")
    return config
