r"""FaviComp: compress retrieved documents into a summary that is familiar to the model which will read it.

Jung, Liu, Huang, Zhou, Chen. "Familiarity-Aware Evidence Compression for Retrieval-Augmented Generation." Findings of
ACL 2025, arXiv:2409.12468.

Two language models over one vocabulary write one summary y together, each after its own prompt: the compressor reads
the question and the documents, the target, which will answer, the question alone. With l_comp and l_tgt their logits
after y_1 .. y_{t-1} and alpha the weight of the target,

    score = (1 - alpha) log softmax(l_comp) + alpha log softmax(l_tgt),      y_t = argmax score,
    log p = score - logsumexp(score).

p is the distribution that minimises (1 - alpha) KL(p || p_comp) + alpha KL(p || p_tgt), and -logsumexp(score) is that
minimum. alpha = 0 is the compressor alone, alpha = 1 what the target knows by itself. A fact that one of the two knows
decides where the other is unsure, so both what was retrieved and what was learnt come through. Nothing is trained.

The summary's familiarity is its perplexity under the target after the question alone, exp(-mean_t log p_tgt(y_t)), and
its compression rate the documents' tokens over its own.

Departures: the released program (luka-group/FaviComp) mixes the logits as they come. Normalisers are constants over the
vocabulary, so the greedy token is the same, and `decode` does likewise; `ensemble_log_probs` normalises.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ...core import checks, numerics, sequences

Step = Callable[[Any, jax.Array], tuple[Any, jax.Array]]  # (state, token [batch]) -> (state, logits [batch, vocab])


def ensemble_log_probs(compressor_logits: jax.Array, target_logits: jax.Array, *, alpha: ArrayLike = 0.5) -> jax.Array:
    """The two models' weighted geometric mean, renormalised.

        log p = score - logsumexp(score),    score = (1 - alpha) log softmax(l_comp) + alpha log softmax(l_tgt)

    Args:
        compressor_logits: `[..., vocab]` float, unnormalised; -inf marks a token that the model excludes.
        target_logits: `[..., vocab]` float, likewise.
        alpha: weight of the target, in [0, 1]; a scalar, or an array that broadcasts with the leading axes.

    Returns:
        `[..., vocab]` log-probabilities in nats, in at least float32. A token that either model excludes has -inf; at
        alpha = 0 and 1 the other model has no say, -inf or not. NaN where no token is left.

    Raises:
        ValueError: logits of different shapes, no vocabulary, or alpha outside [0, 1].

    Example:
        >>> ensemble_log_probs(jnp.log(jnp.array([0.8, 0.2])), jnp.log(jnp.array([0.2, 0.8])))   # log 1/2
        Array([-0.6931472, -0.6931472], dtype=float32)
    """
    _check_logits(compressor_logits, target_logits)
    checks.in_interval("alpha", alpha, 0.0, 1.0)
    _, wide = numerics.float_dtypes(compressor_logits, target_logits)
    compressor = numerics.log_normalize(jnp.asarray(compressor_logits, wide))
    target = numerics.log_normalize(jnp.asarray(target_logits, wide))
    return jax.nn.log_softmax(_mix(compressor, target, alpha), axis=-1)


def perplexity(logits: jax.Array, tokens: jax.Array, where: jax.Array) -> jax.Array:
    """How unfamiliar tokens are to a model: exp(-mean_t log softmax(logits_t)[tokens_t]) over the t that count.

    Args:
        logits: `[..., time, vocab]` float, unnormalised; position t predicts `tokens[..., t]`.
        tokens: `[..., time]` int, in [0, vocab); anything where `where` is False.
        where: `[..., time]` bool, True: the token counts.

    Returns:
        `[...]` in at least float32, at least 1: `vocab` for uniform logits, inf for a token with logit -inf, 1 where no
        token counts, and NaN for one that counts and is not in the vocabulary.

    Raises:
        ValueError: shapes that do not match, no vocabulary, or tokens that are not integers.

    Example:
        >>> perplexity(jnp.zeros((3, 8)), jnp.array([1, 0, 5]), jnp.array([True, True, False]))
        Array(8..., dtype=float32)
    """
    shape = list(jnp.shape(tokens))
    if jnp.ndim(logits) < 2 or jnp.shape(logits)[-1] < 1:
        raise ValueError(f"logits must be [..., time, vocab] with a token at least, got {list(jnp.shape(logits))}.")
    if shape != list(jnp.shape(logits)[:-1]) or not jnp.issubdtype(jnp.result_type(tokens), jnp.integer):
        expected = list(jnp.shape(logits)[:-1])
        raise ValueError(f"tokens must be integers {expected} as logits, got {jnp.result_type(tokens)} {shape}.")
    return jnp.exp(-sequences.sequence_logps(logits, tokens, where=where, length_normalized=True))


def decode(
    compressor_step: Step,
    target_step: Step,
    compressor_state: Any,
    target_state: Any,
    first_token: jax.Array,
    *,
    alpha: ArrayLike = 0.5,
    num_steps: int = 128,
    eos_id: ArrayLike | Sequence[int],
) -> jax.Array:
    """Greedy summary of two models: at every step both read the token that their mixture chose.

    One scan: memory does not grow with `num_steps` but for the tokens themselves. It is compiled once for each pair of
    step functions, told apart by identity. Pass the same two functions every time and let the states carry whatever
    changes, parameters too: arrays that a function closes over become constants of the program.

    Args:
        compressor_step: `step(state, token [batch] int32) -> (state, logits [batch, vocab])`: reads one token and
            scores the next. The state is any pytree whose shapes and dtypes stay as they are, such as parameters with
            the cache of a prompt that was read before.
        target_step: the same of the target.
        compressor_state: the state after its prompt but for the prompt's last token.
        target_state: the same of the target.
        first_token: `[batch]` int, the last token of both prompts, read first and not repeated in the output.
        alpha: weight of the target, in [0, 1], scalar or `[batch]`.
        num_steps: tokens to write, static, at least 1.
        eos_id: the end token, or several, a sequence or an array `[k]`: any of them ends any row. One counts once it is
            written: as `first_token` it ends nothing.

    Returns:
        `[batch, num_steps]` int32. A row that has written an end token goes on with that one alone. Of equal scores the
        lower index is taken. Where a score is NaN, as of a cache that has been outgrown, the row goes on with -1.

    Raises:
        ValueError: num_steps < 1, alpha outside [0, 1], a first_token that is not integers `[batch]`, an eos_id that is
            not one or more integers, or steps whose logits differ in shape.

    Example:
        >>> step = lambda count, token: (count + 1, jax.nn.one_hot(token + 1, 5))   # writes the next number
        >>> decode(step, step, 0, 0, jnp.array([0, 2]), num_steps=4, eos_id=3)
        Array([[1, 2, 3, 3],
               [3, 3, 3, 3]], dtype=int32)
    """
    checks.in_interval("num_steps", num_steps, 1, jnp.inf)
    checks.in_interval("alpha", alpha, 0.0, 1.0)
    checks.shapes(("first_token", first_token, "batch"))
    if not jnp.issubdtype(jnp.result_type(first_token), jnp.integer):
        raise ValueError(f"first_token must be integers, got {jnp.result_type(first_token)}.")
    first_token, ids = jnp.asarray(first_token, jnp.int32), sequences.end_ids(eos_id)
    return _decode(
        compressor_step, target_step, compressor_state, target_state, first_token, alpha, ids, num_steps=num_steps
    )


def decode_bigram(
    compressor_table: jax.Array,
    target_table: jax.Array,
    first_token: jax.Array,
    *,
    alpha: ArrayLike = 0.5,
    num_steps: int,
    eos_id: ArrayLike | Sequence[int],
) -> jax.Array:
    """`decode` of two bigram models: row t of a table holds the logits of what follows token t.

    Args:
        compressor_table: `[vocab, vocab]` float.
        target_table: `[vocab, vocab]` float.
        first_token: `[batch]` int, read first and not repeated in the output.
        alpha: weight of the target, in [0, 1], scalar or `[batch]`.
        num_steps: tokens to write, static, at least 1.
        eos_id: the end token, or several.

    Returns:
        `[batch, num_steps]` int32; see `decode`.

    Raises:
        ValueError: tables that are not square or differ in shape, a first_token outside the vocabulary (where known),
            and whatever `decode` refuses.

    Example:
        >>> table = jnp.roll(jnp.eye(4), 1, axis=1)   # 0 1 2 3 0 ...
        >>> decode_bigram(table, table, jnp.array([0]), num_steps=4, eos_id=3)
        Array([[1, 2, 3, 3]], dtype=int32)
    """
    specs = ("compressor_table", compressor_table, "vocab vocab"), ("target_table", target_table, "vocab vocab")
    vocab = checks.shapes(*specs)["vocab"]
    if vocab < 1:
        raise ValueError("compressor_table must have a token at least, got shape [0, 0].")
    checks.labels("first_token", first_token, vocab)
    tables = jnp.asarray(compressor_table), jnp.asarray(target_table)
    return decode(_look_up, _look_up, *tables, first_token, alpha=alpha, num_steps=num_steps, eos_id=eos_id)


def compression_rate(document_where: jax.Array, summary_where: jax.Array) -> jax.Array:
    """Tokens of the documents over tokens of the summary.

    Args:
        document_where: `[..., n]` bool, True: a token of the documents.
        summary_where: `[..., m]` bool, True: a token of the summary. The leading axes broadcast.

    Returns:
        `[...]` of the default float dtype; inf where the summary is empty.

    Raises:
        ValueError: an argument without an axis.

    Example:
        >>> compression_rate(jnp.ones(30, bool), jnp.array([True, True, True, False]))
        Array(10., dtype=float32)
    """
    checks.shapes(("document_where", document_where, "... n"), ("summary_where", summary_where, "... m"))
    documents, summary = (jnp.sum(where, axis=-1).astype(float) for where in (document_where, summary_where))
    return jnp.where(summary > 0, documents / jnp.maximum(summary, 1), jnp.inf)


@partial(jax.jit, static_argnums=(0, 1), static_argnames="num_steps")
def _decode(compressor_step, target_step, compressor_state, target_state, first_token, alpha, ids, *, num_steps):
    def write(carry, _):
        compressor_state, target_state, token, done = carry
        compressor_state, compressor = compressor_step(compressor_state, token)
        target_state, target = target_step(target_state, token)
        _check_logits(compressor, target)
        _, wide = numerics.float_dtypes(compressor, target)
        scores = _mix(compressor.astype(wide), target.astype(wide), alpha)
        best = jnp.argmax(scores, axis=-1, keepdims=True)  # the first NaN, if there is one
        best = jnp.where(jnp.isnan(jnp.take_along_axis(scores, best, axis=-1)), -1, best)[..., 0]
        token = jnp.where(done, token, best).astype(jnp.int32)
        return (compressor_state, target_state, token, done | (token < 0) | sequences.ends(token, ids)), token

    start = compressor_state, target_state, first_token, jnp.zeros(first_token.shape, bool)
    _, tokens = jax.lax.scan(write, start, length=num_steps)
    return tokens.T


def _look_up(table, token):
    return table, table[token]


def _mix(compressor, target, alpha):
    """`(1 - alpha) compressor + alpha target` of logits, where a model of weight 0 adds nothing, -inf or not."""
    alpha = jnp.expand_dims(jnp.asarray(alpha, compressor.dtype), -1)

    def weighted(weight, logits):
        excluded = jnp.isneginf(logits)
        score = jnp.where(excluded, -jnp.inf, weight * jnp.where(excluded, 0, logits))  # alpha keeps a finite gradient
        return jnp.where(weight > 0, score, 0)

    return weighted(1 - alpha, compressor) + weighted(alpha, target)


def _check_logits(compressor_logits, target_logits):
    shape, other = jnp.shape(compressor_logits), jnp.shape(target_logits)
    if not shape or shape[-1] < 1:
        raise ValueError(f"compressor_logits must be [..., vocab] with a token at least, got shape {list(shape)}.")
    if shape != other:
        raise ValueError(f"target_logits must have shape {list(shape)} as compressor_logits, got {list(other)}.")
