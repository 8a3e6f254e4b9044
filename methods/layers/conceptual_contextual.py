r"""Conceptual-contextual embeddings: a recurrent encoder of names, trained to satisfy the triples of a knowledge graph.

Zhang, Dou, Wu. "Learning Conceptual-Contextual Embeddings for Medical Text." AAAI 2020, arXiv:1908.06203.

Instead of one vector an entity, a bidirectional LSTM reads the name of the entity, as word vectors x_1..x_T, and

    H_t = [ h_t forward ; h_t backward ],        e = max_t H_t        (element-wise, over real tokens)

are its features and its embedding. A triple of head h, relation r and tail t has one of the scores

    translation    s = - | e_h + rho_r - e_t |_1,
    distmult       s = sum_i e_h,i rho_r,i e_t,i,

and the encoder learns, against other tails t'_1..t'_m, from

    loss = - s(h, r, t) + log( exp s(h, r, t) + sum_j exp s(h, r, t'_j) ).

Names that no triple holds are then embedded through their words; and H of a sentence, concatenated to the word vectors
of another task, brings what the graph knows to it.

The paper gives no program. Its recurrent encoder, its training on triples and the reuse as contextual features are
followed; pooling, scores and negative sampling, which are not known for sure, are separate functions. The encoder is a
dictionary of parameters, from `init_bilstm` or from the Flax module `BiLSTM`, which declares the very same one. For the
equations of the LSTM see `lemmata.core.networks.lstm`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ...core import checks, masked, numerics
from ...core.networks import lstm

KINDS = ("translation", "distmult")

BiLSTMParams = dict[str, dict[str, jax.Array]]


def init_bilstm(*, key: jax.Array, input_dim: int, hidden_dim: int) -> BiLSTMParams:
    """Fresh parameters of the encoder: W_x Glorot uniform, W_h with orthonormal rows, b zero but for 1 at gate f.

    Args:
        key: JAX random key.
        input_dim: d, width of a word vector, at least 1.
        hidden_dim: n, units of each direction, at least 1.

    Returns:
        {"forward", "backward"}, each {"w_x": `[d, 4n]`, "w_h": `[n, 4n]`, "b": `[4n]`} float32.

    Raises:
        ValueError: input_dim or hidden_dim below 1.

    Example:
        >>> jax.tree.map(jnp.shape, init_bilstm(key=jax.random.key(0), input_dim=3, hidden_dim=2)["forward"])
        {'b': (8,), 'w_h': (2, 8), 'w_x': (3, 8)}
    """
    keys = jax.random.split(key)
    sizes = {"input_dim": input_dim, "hidden_dim": hidden_dim}
    return {side: lstm.init_lstm(key=key, **sizes) for side, key in zip(lstm.SIDES, keys, strict=True)}


def bilstm_encode(params: BiLSTMParams, x: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Features of every token in its context, [forward; backward].

    Args:
        params: see `init_bilstm`.
        x: `[B, T, d]` float, word vectors.
        where: `[B, T]` bool, True: a real token, before any padding. None: all are. The backward direction starts at
            the last real token; what is masked may be infinite or NaN.

    Returns:
        `[B, T, 2n]` in (-1, 1), 0 where masked, of the dtype that `x` and the parameters promote to; computed in at
        least float32.

    Raises:
        ValueError: x that is not `[B, T, d]` with the d of params, or T = 0; where not boolean or not `[B, T]`.

    Example:
        >>> params = init_bilstm(key=jax.random.key(0), input_dim=3, hidden_dim=2)
        >>> bilstm_encode(params, jnp.ones((1, 2, 3)), where=jnp.array([[True, False]]))[0, 1]
        Array([0., 0., 0., 0.], dtype=float32)
    """
    return lstm.bilstm(params, x, where=where)


def entity_embedding(params: BiLSTMParams, x: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Embedding of each name: the element-wise largest of the features of its tokens.

    Args:
        params: see `init_bilstm`.
        x: `[B, T, d]` float, word vectors of the names.
        where: `[B, T]` bool, True: a real token, before any padding. None: all are.

    Returns:
        `[B, 2n]` in (-1, 1), of the dtype that `x` and the parameters promote to; 0 for a name without a real token.

    Raises:
        ValueError: as `bilstm_encode`.

    Example:
        >>> params = init_bilstm(key=jax.random.key(0), input_dim=3, hidden_dim=2)
        >>> entity_embedding(params, jnp.ones((5, 4, 3))).shape
        (5, 4)
    """
    return masked.max(bilstm_encode(params, x, where=where), None if where is None else where[..., None], axis=1)


def triple_score(head: jax.Array, relation: jax.Array, tail: jax.Array, *, kind: str = "translation") -> jax.Array:
    """How well a tail fits a head and a relation; higher is better.

    Args:
        head: `[..., E]` float, embeddings e_h. Leading axes broadcast: with `head[:, None]` and `relation[:, None]`
            each row is scored against all tails `[m, E]`.
        relation: `[..., E]` float, rho_r.
        tail: `[..., E]` float, embeddings e_t.
        kind: "translation", at most 0, and 0 where e_h + rho_r = e_t; or "distmult", symmetric in head and tail.

    Returns:
        `[...]` in at least float32.

    Raises:
        ValueError: another kind, another E, or leading axes that do not broadcast.

    Example:
        >>> head, relation = jnp.array([1.0, 2.0]), jnp.array([3.0, -1.0])
        >>> tails = jnp.array([[4.0, 1.0], [4.0, 2.0]])
        >>> triple_score(head, relation, tails), triple_score(head, relation, tails, kind="distmult")
        (Array([-0., -1.], dtype=float32), Array([10.,  8.], dtype=float32))
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")
    arrays = (("head", head, "... E"), ("relation", relation, "... E"), ("tail", tail, "... E"))
    checks.shapes(*arrays)
    try:
        jnp.broadcast_shapes(*(array.shape for _, array, _ in arrays))
    except ValueError:
        got = ", ".join(f"{name} {list(array.shape)}" for name, array, _ in arrays)
        raise ValueError(f"head, relation and tail must have leading axes that broadcast, got {got}.") from None
    _, wide = numerics.float_dtypes(head, relation, tail)
    head, relation, tail = (array.astype(wide) for array in (head, relation, tail))
    if kind == "translation":
        return -jnp.sum(jnp.abs(head + relation - tail), axis=-1)
    return jnp.sum(head * relation * tail, axis=-1)


def triple_loss(score_positive: jax.Array, score_negative: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Cross-entropy of telling the true tail from the others: log( 1 + sum_j exp(s'_j - s) ).

    Args:
        score_positive: `[B]` float, finite, the score of each triple.
        score_negative: `[B, m]` float, the scores of the same head and relation with other tails; -inf counts as none.
        where: `[B, m]` bool, True: the negative counts. None: all do. What it leaves out may be infinite or NaN.

    Returns:
        `[B]` in nats, at least 0, in at least float32. 0 without a negative that counts; log(1 + m) where all scores
        are equal.

    Raises:
        ValueError: shapes other than these, or where not boolean.

    Example:
        >>> where = jnp.array([[True, True], [True, False]])
        >>> triple_loss(jnp.array([1.0, 2.0]), jnp.array([[1.0, 1.0], [2.0, 9.0]]), where=where)   # log 3, log 2
        Array([1.0986..., 0.6931...], dtype=float32)
    """
    arrays = (("score_positive", score_positive, "B"), ("score_negative", score_negative, "B m"))
    checks.shapes(*arrays)
    _, wide = numerics.float_dtypes(score_positive, score_negative)
    margins = score_negative.astype(wide) - score_positive.astype(wide)[:, None]
    if where is not None:
        checks.shapes(*arrays, ("where", where, "B m"))
        _check_boolean(where)
        margins = jnp.where(where, margins, -jnp.inf)
    highest = jax.lax.stop_gradient(jnp.max(margins, axis=-1, initial=0.0))
    others = jnp.sum(jnp.exp(margins - highest[:, None]), axis=-1)
    return highest + jnp.log1p(others + jnp.expm1(-highest))  # exact near 0 too, where highest is 0


def contextual_features(
    params: BiLSTMParams, x: jax.Array, word_vectors: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """What a downstream task reads: its own word vectors and, beside each, the encoder's features of the sentence.

    The encoder is frozen by not differentiating with respect to `params`.

    Args:
        params: see `init_bilstm`, as trained on the graph.
        x: `[B, T, d]` float, the sentence in the word vectors that the encoder was trained with.
        word_vectors: `[B, T, d']` float, the sentence in those of the task; they are not masked.
        where: `[B, T]` bool, True: a real token, before any padding. None: all are.

    Returns:
        `[B, T, d' + 2n]`: word vectors first; of the dtype of the inputs' promotion, the parameters among them.

    Raises:
        ValueError: as `bilstm_encode`, or word_vectors of another B or T.

    Example:
        >>> params = init_bilstm(key=jax.random.key(0), input_dim=3, hidden_dim=2)
        >>> contextual_features(params, jnp.ones((2, 6, 3)), jnp.ones((2, 6, 5))).shape
        (2, 6, 9)
    """
    checks.shapes(("x", x, "B T d"), ("word_vectors", word_vectors, "B T e"))
    features = bilstm_encode(params, x, where=where)
    result, _ = numerics.float_dtypes(word_vectors, features)
    return jnp.concatenate([word_vectors.astype(result), features.astype(result)], axis=-1)


class BiLSTM(nn.Module):
    """`bilstm_encode` with parameters of its own, named as there: `variables["params"]` is what the functions take.

    Attributes:
        hidden_dim: n, units of each direction.

    Args:
        x: `[B, T, d]` float, word vectors.
        where: `[B, T]` bool, True: a real token, before any padding. None: all are.

    Returns:
        `[B, T, 2n]`, 0 where masked.

    Example:
        >>> encoder, names = BiLSTM(hidden_dim=2), jnp.ones((5, 4, 3))
        >>> variables = encoder.init(jax.random.key(0), names)
        >>> encoder.apply(variables, names).shape, entity_embedding(variables["params"], names).shape
        ((5, 4, 4), (5, 4))
    """

    hidden_dim: int

    @nn.compact
    def __call__(self, x: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
        """Features `[B, T, 2n]` of word vectors `[B, T, d]`."""

        def init(key):
            return lstm.init_lstm(key=key, input_dim=x.shape[-1], hidden_dim=self.hidden_dim)

        return bilstm_encode({side: self.param(side, init) for side in lstm.SIDES}, x, where=where)


def _check_boolean(where):
    if where.dtype != bool:
        raise ValueError(f"where must be boolean, got dtype {where.dtype}.")
