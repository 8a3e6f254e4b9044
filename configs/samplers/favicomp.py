"""FaviComp against each of its two models alone and no compression: questions whose answer only one model can know."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.experiment = "facts"
    config.seeds = (0, 1, 2)

    config.data = ConfigDict(dict(name="facts", questions=256, documents=6))
    config.model = ConfigDict(dict(num_layers=2, num_heads=4, model_dim=64, mlp_dim=128))
    config.optimizer = ConfigDict(dict(learning_rate=8e-3, schedule="cosine", warmup_steps=30, clip_norm=1.0))
    config.train = ConfigDict(dict(steps=400, batch_size=32))

    config.arms = ConfigDict(dict(
        compressor=dict(alpha=0.0),
        alpha_025=dict(alpha=0.25),
        favicomp=dict(alpha=0.5),
        alpha_075=dict(alpha=0.75),
        target=dict(alpha=1.0),
        documents=dict(evidence="documents"),
    ))
    config.claim = ConfigDict(dict(
        metric="accuracy", better="favicomp", than="compressor", direction="higher",
        paper="abstract: up to 28.1 % better accuracy than recent compression baselines, on five open-domain QA sets",
    ))
    return config
