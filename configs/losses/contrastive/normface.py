"""A normalised softmax against metric learning: digits of classes never trained on, told apart by five examples each.

Learning rate, scales, margins and temperatures were written before the first run, alike for all arms or as in their
papers. Triplets are semi-hard ones: with batch-hard ones all embeddings came to one point, also on other draws, at a
quarter of the learning rate and at margin 0.5. For time, of the paper's opponents matching networks and the
constellation loss are left out, and ArcFace beside CosFace.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.experiment = "representation"
    config.seeds = (0, 1, 2, 3, 4)  # each draws six digits to train on

    config.data = ConfigDict(dict(name="placed_digits", options=dict(noise=0.1), novel=4))
    config.model = ConfigDict(dict(name="convnet", features=(8, 16, 32), embedding=32, convolution="patches"))
    config.optimizer = ConfigDict(dict(name="adam", learning_rate=2e-3))
    config.train = ConfigDict(dict(steps=300, batch_size=128, log_every=100, eval_batch_size=512))
    config.protocol = ConfigDict(dict(shots=5, queries=15, episodes=200))

    config.arms = ConfigDict(dict(
        normface=dict(name="normface", scale=16.0),
        normface_constraint=dict(name="normface", scale=16.0, norm_weight=0.01),
        triplet=dict(name="triplet", margin=0.2, mining="semihard"),
        contrastive=dict(name="contrastive", margin=1.0),
        prototypical=dict(name="prototypical", shots=5, temperature=0.1),
        supcon=dict(name="supcon", temperature=0.1),
        cosface=dict(name="cosface", scale=16.0, margin=0.35),
        softmax=dict(name="cross_entropy"),
        untrained=dict(name="untrained", train=dict(steps=1)),
    ))
    config.claim = ConfigDict(dict(
        metric="novel", better="normface", than="triplet", direction="higher",
        paper="abstract: better than the metric learning strategies on unseen classes, by a significant margin",
    ))
    return config
