"""A byte-level Transformer on Python's documentation, with rotary and with learned positions.

At scale, the same program: `--arm=rotary --config.data.stream=True --config.mesh.strategy=fsdp
--config.train.compute_dtype=bfloat16 --config.train.remat=dots`, and the model's sizes.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.experiment = "language_model"
    config.seeds = (0, 1, 2)

    config.data = ConfigDict(dict(name="python_docs", window=64))
    config.model = ConfigDict(dict(num_layers=2, num_heads=4, model_dim=64, mlp_dim=256))
    config.optimizer = ConfigDict(dict(
        name="adamw", learning_rate=1e-2, weight_decay=0.01, schedule="cosine", warmup_steps=30, clip_norm=1.0,
    ))
    config.train = ConfigDict(dict(steps=300, batch_size=32, log_every=50, eval_every=100))
    config.mesh = ConfigDict(dict(data=-1, model=1, strategy="replicate"))

    config.arms = ConfigDict(dict(
        rotary=dict(model=dict(positions="rotary")),
        learned=dict(model=dict(positions="learned")),
    ))
    config.claim = ConfigDict(dict(
        metric="bits_per_byte", better="rotary", than="learned", direction="lower",
        paper="Su et al., 2021 (arXiv:2104.09864), section 4.2: the pre-training loss falls faster than BERT's",
    ))
    return config
