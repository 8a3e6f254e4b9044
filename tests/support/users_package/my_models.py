"""Models of one's own as pairs (init, apply): of Flax NNX, and of plain functions as an Equinox model gives them."""

import jax
import jax.numpy as jnp
from flax import nnx


class Net(nnx.Module):
    """Two dense layers."""

    def __init__(self, inputs: int, width: int, outputs: int, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(inputs, width, rngs=rngs)
        self.readout = nnx.Linear(width, outputs, rngs=rngs)

    def __call__(self, x):
        return self.readout(nnx.relu(self.hidden(x)))


def nnx_pair(outputs, width=16, inputs=3):
    def make(key):
        return nnx.split(Net(inputs, width, outputs, nnx.Rngs(key)))

    graph, _ = nnx.split(nnx.eval_shape(lambda: Net(inputs, width, outputs, nnx.Rngs(0))))
    return lambda key, x: nnx.to_pure_dict(make(key)[1]), lambda params, x: nnx.merge(graph, nnx.State(params))(x)


def linear_pair(outputs, inputs=3):
    def init(key, x):
        return {"weight": 0.1 * jax.random.normal(key, (outputs, inputs)), "bias": jnp.zeros(outputs)}

    def of_one(params, x):
        return params["weight"] @ x + params["bias"]

    return init, lambda params, x: jax.vmap(of_one, in_axes=(None, 0))(params, x)
