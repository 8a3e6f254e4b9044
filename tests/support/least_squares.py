"""Clients of unlike least-squares objectives f_i(y) = 1/2 |A_i y - b_i|^2, with exact gradients."""

import jax
import jax.numpy as jnp
import numpy as np


def least_squares(seed=0, clients=10, rows=5, dim=10, spread=3.0):
    """Clients with few rows, so that each has minima of its own far from the others': A `[M, n, d]` and b `[M, n]`."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(clients, rows, dim)) / np.sqrt(rows) * 10 ** -np.linspace(0, 0.5, dim)
    b = np.einsum("mnd,md->mn", A, spread * rng.normal(size=(clients, dim)))
    return jnp.asarray(A, jnp.float32), jnp.asarray(b, jnp.float32)


def grad_fn(y, batch):
    A, b = batch
    return A.T @ (A @ y - b)


def repeated(problem, steps):
    """Batches `[M, steps, ...]` that show each client all of its data in every step."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], steps, *x.shape[1:])), problem)


@jax.jit
def mean_gradient(y, problem):
    return jnp.mean(jax.vmap(grad_fn, in_axes=(None, 0))(y, problem), axis=0)
