"""A decoder-only Transformer: pre-norm, scanned over its layers.

Each layer adds `attention(norm(x))` to its input x, then `mlp(norm(x))`. The layers' parameters are stacked along a
leading axis `[num_layers, ...]` under `blocks`, and one traced block runs over them: the time to compile does not
depend on the depth. Whatever the dtype of the parameters, softmax, normalisation statistics and logits are float32.

To write a text token by token, keep what attention saw in a `Cache`, which is passed in and returned:

    cache = network.init_cache(batch, length)
    cache, logits = network.apply(params, cache, prompt, method="extend")        # [batch, n] tokens at once
    cache, logits = network.apply(params, cache, token, method="decode_step")    # [batch], one each

The logits are those of `apply` on the whole text. Rows of unequal length are padded on either side, or anywhere: pass
`where`, True for the tokens that count. Positions are numbered over those alone, so every row gives what it gives by
itself; what `where` leaves out may be any integer.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from .. import checks
from .batch import split_batch
from .remat import rematerialized

ATTENTION = ("causal", "prefix", "full")
POSITIONS = ("rotary", "learned")


def attention_mask(
    kind: str, length: int, *, prefix: jax.Array | None = None, where: jax.Array | None = None
) -> jax.Array:
    """Which keys each query may see.

    Args:
        kind: "causal": keys up to the query's own position; "prefix": those, and the whole prefix, so that its
            positions see each other; "full": every key.
        length: number of positions.
        prefix: `[batch]` int, lengths of the prefixes, for "prefix" and only there, in [0, length] and counted over the
            positions that count. 0 is causal, `length` is full.
        where: `[batch, length]` bool, True: the position counts. Others are seen by nobody.

    Returns:
        `[batch or 1, 1, length, length]` bool: batch, heads, queries, keys.

    Raises:
        ValueError: unknown `kind`; `prefix` missing for "prefix" or given for another kind, or (where known) outside
            its range; a wrong shape or dtype.
    """
    if kind not in ATTENTION:
        raise ValueError(f"kind must be one of {ATTENTION}, got {kind!r}.")
    if (kind == "prefix") != (prefix is not None):
        raise ValueError(f'prefix must be given for kind "prefix" and no other, got kind {kind!r}, prefix {prefix}.')
    if prefix is not None:
        if prefix.ndim != 1 or not jnp.issubdtype(prefix.dtype, jnp.integer):
            raise ValueError(f"prefix must be integers [batch], got {prefix.dtype} {prefix.shape}.")
        checks.in_interval("prefix", prefix, 0, length)
    if where is not None and (where.ndim != 2 or where.shape[1] != length or where.dtype != bool):
        raise ValueError(f"where must be booleans [batch, {length}], got {where.dtype} {where.shape}.")
    if prefix is not None and where is not None and len(where) != len(prefix):
        raise ValueError(f"where must be [{len(prefix)}, {length}] for as many rows as prefix, got {where.shape}.")

    index = jnp.arange(length)
    mask = jnp.ones((1, 1, length, length), bool)
    if kind != "full":
        mask = mask & (index[:, None] >= index)
    if prefix is not None:
        position = index[None] if where is None else count_positions(where)
        mask = mask | (position[:, None, None, :] < prefix[:, None, None, None])
    if where is not None:
        mask = mask & where[:, None, None, :]
    return mask


def count_positions(where: jax.Array) -> jax.Array:
    """The position of each token in its row, `[batch, length]` int32, numbered over the tokens that count alone.

    Args:
        where: `[batch, length]` bool, True: the token counts. One that does not has the position of the last one
            before it that does, or 0.

    Example:
        >>> count_positions(jnp.array([[False, True, True], [True, False, True]]))
        Array([[0, 0, 1],
               [0, 0, 1]], dtype=int32)
    """
    return jnp.maximum(jnp.cumsum(where, axis=1, dtype=jnp.int32) - 1, 0)


class Cache(NamedTuple):
    """Keys and values of the positions that were read, and how many each row has.

    Rows fill from the left, each at its own pace, with the tokens that count; what lies at and beyond `length` means
    nothing. A `length` beyond the size says that the row has outgrown its cache: what it reads from there on is NaN.
    """

    key: jax.Array  # [batch, num_layers, heads, size, head_dim], rotated if positions are rotary
    value: jax.Array  # [batch, num_layers, heads, size, head_dim]
    length: jax.Array  # [batch] int32


def extend_layer(cache: Cache, key: jax.Array, value: jax.Array, layer: jax.Array, places: jax.Array) -> Cache:
    """`cache` with one layer's new keys and values in their places.

    In a loop that carries the cache nothing but the new entries is written.

    Args:
        cache: its `length` stays as it is, for the other layers.
        key: `[batch, n, heads, head_dim]`.
        value: `[batch, n, heads, head_dim]`.
        layer: `[]` int.
        places: `[batch, n]` int, where each goes in its row; all different in a row. What would lie beyond the end is
            dropped.
    """

    def write_row(buffer, new, places):  # [num_layers, heads, size, head_dim], [n, heads, head_dim], [n]
        return buffer.at[layer, :, places].set(new.astype(buffer.dtype), mode="drop", unique_indices=True)

    write = jax.vmap(write_row)  # so that a mesh which splits the batch moves nothing
    return cache._replace(key=write(cache.key, key, places), value=write(cache.value, value, places))


def rotate(x: jax.Array, *, base: float = 10_000.0, position: jax.Array | None = None) -> jax.Array:
    """Rotary positions (Su et al., 2021): turns each pair of channels by its position times the pair's frequency.

    Args:
        x: `[batch, length, heads, head_dim]` queries or keys; `head_dim` even. Channel i pairs with i + head_dim / 2.
        base: the pairs' frequencies fall geometrically from 1 towards 1 / `base` radians a position.
        position: `[length]` or `[batch, length]` int. None: 0, 1, 2, ...

    Returns:
        The rotated `x`, in its dtype. Inner products of rotated vectors depend on positions by their difference only.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if position is None:
        position = jnp.arange(x.shape[1])
    angle = (position[..., None].astype(jnp.float32) * frequency)[..., None, :]  # [(batch,) length, 1, half]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


class Block(nn.Module):
    """One layer; see the module's docstring. `residual_scale` shrinks what each branch adds at initialisation."""

    num_heads: int
    mlp_dim: int
    rotary: bool
    residual_scale: float
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        carry: tuple[jax.Array, Cache | None],
        mask: jax.Array,
        position: jax.Array,
        places: jax.Array | None,
        layer: jax.Array,
    ) -> tuple[tuple[jax.Array, Cache | None], None]:
        """What a scan carries through the layers, after this one, and None, which it collects.

        Args:
            carry: x `[batch, length, model_dim]`, and a cache if `x` comes after positions that were read before.
            mask: which keys each query sees, of `x` itself, or of the cache once those of `x` are in it.
            position: `[length]` or `[batch, length]` int, of each vector of `x`.
            places: `[batch, length]` int, where each goes in the cache, if there is one.
            layer: `[]` int, where this layer is in the cache.
        """
        x, cache = carry
        model_dim = x.shape[-1]
        dense = partial(nn.DenseGeneral, use_bias=False, dtype=self.dtype)
        norm = partial(nn.LayerNorm, use_bias=False, use_fast_variance=False, dtype=self.dtype)
        to_residual = nn.initializers.variance_scaling(self.residual_scale**2, "fan_in", "truncated_normal")

        y = norm(name="attention_norm")(x)
        heads = (self.num_heads, model_dim // self.num_heads)
        query, key, value = (dense(heads, name=name)(y) for name in ("query", "key", "value"))
        if self.rotary:
            query, key = (rotate(z, position=position) for z in (query, key))
        if cache is not None and places is not None:  # one comes with the other
            cache = extend_layer(cache, key, value, layer, places)
            key, value = (jnp.swapaxes(seen[:, layer], 1, 2).astype(query.dtype) for seen in (cache.key, cache.value))
        y = jax.nn.dot_product_attention(query, key, value, mask=mask)  # softmax in float32
        x = split_batch(x + dense(model_dim, axis=(-2, -1), kernel_init=to_residual, name="attention_out")(y))

        y = norm(name="mlp_norm")(x)
        y = nn.gelu(dense(self.mlp_dim, name="mlp_in")(y))
        x = split_batch(x + dense(model_dim, kernel_init=to_residual, name="mlp_out")(y))
        return (x, cache), None


class Transformer(nn.Module):
    """Next-token logits `[batch, length, vocab_size]`, float32, of tokens `[batch, length]`.

    Attributes:
        vocab_size: tokens are 0 … vocab_size - 1.
        num_layers: number of blocks.
        num_heads: divides `model_dim`; with rotary positions `model_dim / num_heads` is even.
        model_dim: width of the residual stream.
        mlp_dim: width of the hidden layer of each block's MLP.
        max_length: longest sequence; learned positions have this many rows.
        attention: "causal", "prefix" or "full"; see `attention_mask`.
        positions: "rotary" or "learned".
        tie_embeddings: the output layer is the transposed embedding. Otherwise it has weights of its own, small enough
            at initialisation that the loss starts at log(vocab_size).
        dtype: computes in this dtype instead of the parameters'.
        remat: "none", "dots" or "full", for each block; see `remat.rematerialized`.

    Raises:
        ValueError: an attribute outside its range; tokens that are not integers `[batch, length <= max_length]`, or
            (where known) not in the vocabulary; in a traced call, one that is not makes its row NaN.
    """

    vocab_size: int
    num_layers: int = 4
    num_heads: int = 4
    model_dim: int = 128
    mlp_dim: int = 512
    max_length: int = 256
    attention: str = "causal"
    positions: str = "rotary"
    tie_embeddings: bool = False
    dtype: Any = None
    remat: str = "none"

    def setup(self):
        """Checks the attributes and declares the layers."""
        self._check()
        # Tokens and learned positions start alike, and both are scaled by sqrt(model_dim) on the way in, so that the
        # residual stream starts at order one.
        init = nn.initializers.normal(self.model_dim**-0.5)
        self.embedding = nn.Embed(self.vocab_size, self.model_dim, dtype=self.dtype, embedding_init=init)
        if self.positions == "learned":
            shape = (self.max_length, self.model_dim)
            self.position_embedding = self.param("position_embedding", init, shape)
        scanned = nn.scan(
            rematerialized(Block, self.remat, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0),  # pyright: ignore[reportArgumentType]
            length=self.num_layers,
        )
        residual_scale = (2 * self.num_layers) ** -0.5  # two branches a layer: the stream stays of order 1 at any depth
        self.blocks = scanned(self.num_heads, self.mlp_dim, self.positions == "rotary", residual_scale, self.dtype)
        self.final_norm = nn.LayerNorm(use_bias=False, use_fast_variance=False, dtype=self.dtype)
        if not self.tie_embeddings:
            init = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
            self.head = self.param("head", init, (self.model_dim, self.vocab_size))

    def __call__(
        self, tokens: jax.Array, *, prefix: jax.Array | None = None, where: jax.Array | None = None
    ) -> jax.Array:
        """Logits `[batch, length, vocab_size]`, float32: at position i, of the token at i + 1 where causal.

        Args:
            tokens: `[batch, length]` integers.
            prefix: `[batch]` int, lengths of the prefixes, for `attention="prefix"`, counted over what counts.
            where: `[batch, length]` bool, True: the position counts. Padding may lie on either side, or anywhere:
                positions are numbered from the first that counts. Logits elsewhere are finite and mean nothing.
        """
        return self._logits(self.hidden(tokens, prefix=prefix, where=where))

    def hidden(
        self, tokens: jax.Array, *, prefix: jax.Array | None = None, where: jax.Array | None = None
    ) -> jax.Array:
        """The normalised last layer `[batch, length, model_dim]`, which the logits are linear in."""
        self._check_tokens(tokens, self.max_length, where)
        if prefix is not None and prefix.shape != tokens.shape[:1]:
            raise ValueError(f"prefix must be [{len(tokens)}], one a row of tokens, got shape {prefix.shape}.")
        mask = attention_mask(self.attention, tokens.shape[1], prefix=prefix, where=where)
        position = jnp.arange(tokens.shape[1]) if where is None else count_positions(where)
        x, _ = self._through_layers(self._embed(tokens, position, where), None, mask, position, None)
        return self.final_norm(x)

    @nn.nowrap
    def init_cache(self, batch: int, length: int, *, dtype: Any = None) -> Cache:
        """An empty cache; needs no parameters.

        Args:
            batch: number of rows.
            length: most positions that it will hold, at most `max_length`.
            dtype: of keys and values; by default `self.dtype`, else float32.
        """
        if not 1 <= length <= self.max_length:
            raise ValueError(f"length must be in [1, {self.max_length}], got {length}.")
        shape = (batch, self.num_layers, self.num_heads, length, self.model_dim // self.num_heads)
        key, value = (jnp.zeros(shape, dtype or self.dtype or jnp.float32) for _ in range(2))
        return Cache(key, value, jnp.zeros(batch, jnp.int32))

    def decode_step(self, cache: Cache, token: jax.Array) -> tuple[Cache, jax.Array]:
        """Read one token `[batch]` in each row; logits `[batch, vocab_size]`, float32, of the next."""
        cache, logits = self.extend(cache, jnp.expand_dims(token, 1))
        return cache, logits[:, 0]

    def extend(self, cache: Cache, tokens: jax.Array, *, where: jax.Array | None = None) -> tuple[Cache, jax.Array]:
        """Read tokens after those that the cache holds.

        Args:
            cache: of `init_cache` or of an earlier call.
            tokens: `[batch, n]` integers.
            where: `[batch, n]` bool, True: the token counts. None: all do. Padding may lie on either side, or anywhere;
                it takes no place in the cache.

        Returns:
            The cache with the tokens that count, and logits `[batch, n, vocab_size]`, float32: at i, of the token
            after `tokens[:, i]`. Logits where `where` is False mean nothing. A row that outgrows the cache, which only
            a traced call finds out too late, has logits of NaN for the tokens that had no place in it.

        Raises:
            ValueError: attention that is not causal, tokens that are not integers `[batch, n <= the cache's size]` for
                as many rows as the cache has, or a row that outgrows the cache, where known.
        """
        if self.attention != "causal":
            raise ValueError(f'attention must be "causal" for a cache, got {self.attention!r}.')
        size = cache.key.shape[3]
        self._check_tokens(tokens, size, where)
        if len(tokens) != len(cache.length):
            raise ValueError(f"tokens must have the {len(cache.length)} rows of the cache, got shape {tokens.shape}.")
        n = tokens.shape[1]
        read = n if where is None else jnp.sum(where, axis=1, dtype=jnp.int32)
        length = cache.length + read
        _check_room(length, size)

        new = jnp.arange(n) if where is None else count_positions(where)
        position = cache.length[:, None] + new  # [batch, n]
        fits = position < size
        kept = fits if where is None else fits & where
        places = jnp.where(kept, position, size + jnp.arange(n))  # the others beyond the end, where they are dropped
        mask = (jnp.arange(size) <= position[..., None])[:, None]  # [batch, 1, n, size]
        within = jnp.minimum(position, size - 1)
        x, cache = self._through_layers(self._embed(tokens, within, where), cache, mask, position, places)
        x = jnp.where(fits[..., None], self.final_norm(x), jnp.nan)
        return cache._replace(length=length), self._logits(x)

    def _through_layers(self, x, cache, mask, position, places):
        carry, _ = self.blocks((x, cache), mask, position, places, jnp.arange(self.num_layers))
        return carry

    def _embed(self, tokens, position, where):
        outside = tokens < 0  # would count from the vocabulary's end; what is beyond that end is NaN already
        tokens = jnp.where(outside, self.vocab_size, tokens)
        if where is not None:
            tokens = jnp.where(where, tokens, 0)
        x = self.embedding(tokens)
        if self.positions == "learned":
            x = x + self.position_embedding[position].astype(x.dtype)
        return split_batch(x * jnp.asarray(self.model_dim**0.5, x.dtype))

    def _logits(self, x):
        weights = self.embedding.embedding.T if self.tie_embeddings else self.head
        return split_batch(jnp.matmul(x, weights.astype(x.dtype), preferred_element_type=jnp.float32))

    def _check_tokens(self, tokens, longest, where):
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer) or tokens.shape[1] > longest:
            raise ValueError(
                f"tokens must be integers [batch, length <= {longest}], got {tokens.dtype} {tokens.shape}."
            )
        if where is not None and (where.shape != tokens.shape or where.dtype != bool):
            raise ValueError(f"where must be booleans {list(tokens.shape)}, got {where.dtype} {list(where.shape)}.")
        if checks.is_known(tokens) and (where is None or checks.is_known(where)):
            checks.labels("tokens", tokens if where is None else jnp.where(where, tokens, 0), self.vocab_size)

    def _check(self) -> None:
        sizes = ("vocab_size", "num_layers", "num_heads", "model_dim", "mlp_dim", "max_length")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.model_dim % self.num_heads:
            raise ValueError(f"num_heads must divide model_dim {self.model_dim}, got {self.num_heads}.")
        if self.positions not in POSITIONS:
            raise ValueError(f"positions must be one of {POSITIONS}, got {self.positions!r}.")
        if self.positions == "rotary" and self.model_dim // self.num_heads % 2:
            raise ValueError(
                f"num_heads must leave an even model_dim / num_heads for rotary positions, got {self.num_heads} heads "
                f"for model_dim {self.model_dim}."
            )
        if self.attention not in ATTENTION:
            raise ValueError(f"attention must be one of {ATTENTION}, got {self.attention!r}.")


def _check_room(length, size):
    """Refuses rows that have more tokens than the cache has places, where their lengths are known."""
    if checks.is_known(length) and np.any(np.asarray(length) > size):
        row = int(np.argmax(np.asarray(length)))
        raise ValueError(f"cache must have room for every token: row {row} has {int(length[row])}, its size is {size}.")
