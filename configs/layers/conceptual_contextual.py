"""An encoder of names against the mean of their words and a table of entities, on entities that no triple held.

A third relation follows from two words of the name together, and tells the encoder from the mean. That any reading of
names beats a table where entities are unseen is in the table of results: an unseen row of it has learnt nothing.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.experiment = "knowledge_graph"
    config.seeds = (0, 1, 2)

    config.data = ConfigDict(dict(num_names=900, train_share=0.6, head_first=0.3, synonym=0.5))
    config.model = ConfigDict(dict(dim=32, score="distmult"))
    config.optimizer = ConfigDict(dict(name="adam", learning_rate=5e-3))
    config.train = ConfigDict(dict(steps=625, batch_size=64, eval_batch_size=360))  # 25 epochs

    config.arms = ConfigDict(dict(
        cc=dict(encoder="bilstm"),
        word_mean=dict(encoder="word_mean"),
        lookup=dict(encoder="lookup"),
    ))
    config.claim = ConfigDict(dict(
        metric="mrr", better="cc", than="word_mean", direction="higher",
        paper="a major boost on prediction from health records and medical NLP benchmarks, above ELMo-type and "
              "entity-embedding features",
    ))
    return config
