"""Decoding: one model's writing, what counts as an answer, and arms that share their models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from lemmata.configs.samplers import favicomp as favicomp_config
from lemmata.train.experiments.studies import facts as decoding
from lemmata.train.experiments.studies.facts.land import Facts
from lemmata.train.judge import config as configs

SMALL = dict(num_layers=1, num_heads=2, model_dim=16, mlp_dim=16)


def arms(**overrides):
    """Every arm of FaviComp's config, made small."""
    config = favicomp_config.get_config()
    config.seeds, config.mesh = (0, 1), dict(data=1)
    config.data.update(dict(questions=8, relations=4, words=2, documents=2))
    config.model.update(SMALL)
    config.optimizer.warmup_steps = 0
    config.train.update(dict(steps=4, batch_size=8))
    for name, section in overrides.items():
        config[name].update(section)
    completed = configs.complete(config)
    return {arm: configs.resolve_arm(completed, arm) for arm in completed.arms}


@pytest.mark.slow
def test_arms_report_their_metrics_from_models_trained_once():
    decoding._trained.cache_clear()
    some = {arm: c for arm, c in arms().items() if arm in ("favicomp", "documents")}
    found = {(arm, seed): decoding.run(c, seed=seed) for arm, c in some.items() for seed in (0, 1)}
    assert decoding._trained.cache_info().misses == 1
    for (arm, _), metrics in found.items():
        assert set(metrics) == set(decoding.METRICS)
        assert all(isinstance(value, float) for value in metrics.values())
        assert metrics["accuracy"] == pytest.approx((metrics["accuracy_documents"] + metrics["accuracy_memory"]) / 2)
        assert arm != "documents" or metrics["compression_rate"] == 1.0
    assert found["documents", 0]["perplexity"] != found["documents", 1]["perplexity"]


def test_several_models_are_trained_as_each_would_be_alone():
    land = Facts(relations=2, words=2, documents=1)
    size = len(land.vocabulary)
    objective = decoding.make_objective(nn.Embed(size, size))  # a bigram model is a language model, too
    texts = {"compressor": land.compressor_texts, "target": land.target_texts}

    @jax.jit
    def gradients(key):
        batch = {name: draw(key, 8) for name, draw in texts.items()}
        params, _ = objective.init(key, batch)
        both, (_, losses) = jax.grad(objective.loss, has_aux=True)(params, {}, batch, key)
        target = {"target": params["target"]}, {}, {"target": batch["target"]}, key
        return both["target"], jax.grad(objective.loss, has_aux=True)(*target)[0]["target"], losses

    both, alone, losses = gradients(jax.random.key(0))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), both, alone)
    assert set(losses) == {"compressor", "target"}


@pytest.mark.parametrize("ends", [4, [4], (4, 7), jnp.array([7, 0, 4])])
def test_generation_follows_the_choice_until_an_end_token(ends):
    table = jax.random.normal(jax.random.key(0), (9, 9))
    written = decoding.generate(
        lambda state, token: (state, state[token]), table, jnp.arange(9),
        key=jax.random.key(1), choose=decoding.greedy, num_steps=7, eos_id=ends,
    )  # fmt: skip
    best = np.argmax(table, axis=-1)
    for first, row in enumerate(np.asarray(written)):
        token, ended = first, False
        for got in row:
            token = token if ended else best[token]
            ended = ended or token in np.atleast_1d(ends)
            assert got == token


def test_answers_are_compared_without_case_punctuation_and_articles():
    assert decoding.normalized("The  River, an A-flat; a Bila!") == "river aflat bila"
    assert decoding.answered("It is the Bila Boron.", "bila boron")
    assert not decoding.answered("Bila", "Bila Boron")
    assert decoding.word_f1("the Bila Boron", "Bila Boron") == 1.0
    assert decoding.word_f1("Bila Bila", "Bila Boron") == pytest.approx(0.5)
    assert decoding.word_f1("", "Bila Boron") == 0.0


@pytest.mark.parametrize("bad", [{"data": {"name": "fact"}}, {"method": {"evidence": "abstract"}}])
def test_wrong_config_names_the_key(bad):
    config = arms()["favicomp"]
    (section, values), *_ = bad.items()
    config[section].update(ConfigDict(values))
    with pytest.raises(ValueError, match=f"{section}.{next(iter(values))}"):
        decoding.run(config, seed=0)
