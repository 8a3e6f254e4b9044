"""Federated averaging on digits with uplinks of 2 to 8 bits: accuracy against the bytes that clients sent."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.experiment = "federated"
    config.seeds = tuple(range(6))

    config.data = ConfigDict(dict(name="digits", clients=10, split="dirichlet", concentration=0.5))
    config.model = ConfigDict(dict(hidden=(64,), init_scale=0.15))
    config.protocol = ConfigDict(dict(
        local_steps=18,  # two epochs of a mean client
        local_batch=16,
    ))
    config.method = ConfigDict(dict(name="clipped_uniform", learning_rate=0.2))  # of every arm that says nothing else
    config.train = ConfigDict(dict(steps=20, batch_size=10, eval_batch_size=360, eval_every=20))  # rounds; all clients
    config.mesh = ConfigDict(dict(data=1))  # 10 clients divide over 2, 5 or 10 devices too

    config.arms = ConfigDict(dict(
        float32=dict(name="fedavg"),
        bits_4=dict(bits=(4,)),
        bits_4_max_clip=dict(bits=(4,), clip="max"),  # unbiased, where a smaller clip shrinks large weights each round
        bits_4_nearest=dict(bits=(4,), rounding="nearest"),
        bits_2=dict(bits=(2,)),
        bits_2_max_clip=dict(bits=(2,), clip="max"),
        bits_2_4_8=dict(bits=(2, 4, 8), weighting="inverse_mse"),
        bits_2_4_8_by_data=dict(bits=(2, 4, 8)),
        iid_float32=dict(name="fedavg", data=dict(split="iid")),
        iid_bits_4=dict(data=dict(split="iid"), bits=(4,)),
    ))
    config.claim = ConfigDict(dict(
        metric="accuracy", better="bits_2", than="bits_2_max_clip", direction="higher",
        paper="near full-precision accuracy with 2 to 8 bits and the optimal clip; stochastic rounding above nearest "
              "(MNIST, CIFAR-10)",
    ))
    return config
