"""SFT, KTO, SFT then KTO, and the fusion of SFT with SFT then KTO, from one pretrained byte-level Transformer."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.experiment = "alignment"
    config.seeds = (0, 1, 2)

    config.data = ConfigDict(dict(name="python_docs", prompt=8, answer=12, test_rows=512))
    config.model = ConfigDict(dict(
        num_layers=2, num_heads=4, model_dim=48, mlp_dim=192,
        pretraining=dict(steps=600, batch_size=32, learning_rate=3e-3),
    ))
    config.optimizer = ConfigDict(dict(name="adam", learning_rate=5e-4))
    config.train = ConfigDict(dict(
        steps=150, batch_size=32, eval_batch_size=512, eval_every=25, log_every=25, steps_per_dispatch=25,
    ))

    config.protocol = ConfigDict(dict(first_steps=75))
    config.method = ConfigDict(dict(name="kto", beta=0.1))
    config.arms = ConfigDict(dict(
        base=dict(name="base", train=dict(steps=1)),
        sft=dict(name="sft"),
        fused=dict(protocol=dict(first="sft", fuse_with="sft")),
        sft_kto=dict(protocol=dict(first="sft")),
        kto=dict(),
    ))
    config.claim = ConfigDict(dict(
        metric="margin", better="sft_kto", than="sft", direction="higher",
        paper="abstract: post-training improves Qwen2-0.5B-Instruct, SFT then KTO and fused weights the most",
    ))
    return config
