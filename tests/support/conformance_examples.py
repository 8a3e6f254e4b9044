"""What the conformance checks call: every public function, with the arrays of a golden case or of an example here.

An example serves conformance alone: nothing independent computed what it gives. It is a function that returns what to
call, its positional and its keyword arguments; it is here, and not in a cases.json, where an argument is a callable, a
key or a module. A Flax module is called through `apply`, with variables from `init`.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from golden_cases import first_cases

from lemmata.methods.catalogue import methods

EXAMPLES: dict[str, Callable] = {}


@dataclasses.dataclass(frozen=True)
class Example:
    """One call, as a golden case is, without outputs."""

    call: str

    @property
    def function(self) -> Callable:
        return self._built[0]

    def inputs(self) -> tuple[tuple, dict]:
        return self._built[1:]

    @functools.cached_property
    def _built(self):
        module, name = self.call.split(":")
        public = getattr(importlib.import_module(f"lemmata.{module}"), name)
        return EXAMPLES[self.call](public)


def subjects() -> list:
    """A golden case or an example of every function that has one."""
    cases = first_cases()
    return cases + [Example(call) for call in EXAMPLES if call not in {case.call for case in cases}]


def public_calls() -> list[str]:
    """Every public function and Flax module of the methods, as the catalogue finds them."""
    return [f"{method.module.removeprefix('lemmata.')}:{name}" for method in methods() for name in method.functions]


def example(call: str) -> Callable:
    """Registers `(public function) -> (function to call, args, kwargs)`."""

    def register(build):
        EXAMPLES[call] = build
        return build

    return register


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def applied(module, **inputs):
    """A Flax module as a function of its variables and inputs."""

    def apply(variables, **inputs):
        return module.apply(variables, **inputs)

    return apply, (jax.jit(module.init)(jax.random.key(0), **inputs),), inputs


KEY = jax.random.key(0)

# -------------------------------------------------------------------------------------------------------------- bounds


@example("methods.bounds.demi:sample_gaussian_subviews")
def _(function):
    return function, (), {"key": KEY, "n": 4, "dim": 3, "total_mi": jnp.array(2.0), "subview_mi": jnp.array(1.0)}


# ---------------------------------------------------------------------------------------------------------- clustering


def blobs():
    """Eight rows in two clusters that no tie divides: a continuous column and a categorical one."""
    continuous = jnp.array([[0.0], [0.11], [0.25], [0.42], [9.0], [9.13], [9.31], [9.57]])
    return continuous, jnp.array([[0], [0], [0], [1], [1], [1], [1], [0]], jnp.int32)


@example("methods.clustering.dib_mix:dib_mix")
def _(function):
    weights = jnp.exp(-jnp.square(blobs()[0] - blobs()[0].T))
    conditional = weights / jnp.sum(weights, axis=1, keepdims=True)
    return function, (conditional,), {"key": KEY, "num_clusters": 2, "num_restarts": 3, "max_iterations": 5}


@example("methods.clustering.dib_mix:dib_mix_columns")
def _(function):
    sizes = {"num_categories": [2], "num_clusters": 2, "num_restarts": 3, "max_iterations": 5, "block_size": 4}
    return function, (*blobs(), jnp.array(1.0), jnp.array([0.2])), {"key": KEY} | sizes


# -------------------------------------------------------------------------------------------------------------- layers


@example("methods.layers.conceptual_contextual:init_bilstm")
def _(function):
    return function, (), {"key": KEY, "input_dim": 3, "hidden_dim": 2}


@example("methods.layers.conceptual_contextual:contextual_features")
def _(function):
    from lemmata.methods.layers import conceptual_contextual

    params = conceptual_contextual.init_bilstm(key=KEY, input_dim=3, hidden_dim=2)
    where = jnp.array([[True, True, True, False]] * 4)
    return function, (params, normal(1, 4, 4, 3), normal(2, 4, 4, 5)), {"where": where}


@example("methods.layers.conceptual_contextual:BiLSTM")
def _(module):
    return applied(module(hidden_dim=2), x=normal(1, 4, 3, 3), where=jnp.array([[True, True, False]] * 4))


EEG = {"num_channels": 3, "num_samples": 80, "num_classes": 2}


@example("methods.layers.imagined_speech:init_eegnet")
def _(function):
    return function, (), {"key": KEY, **EEG, "num_temporal": 2, "num_separable": 4, "kernel_size": 8}


@example("methods.layers.imagined_speech:init_shallow_convnet")
def _(function):
    return function, (), {"key": KEY, **EEG, "num_filters": 3, "pool_size": 20}


@example("methods.layers.imagined_speech:init_deep_convnet")
def _(function):
    return function, (), {"key": KEY, **EEG, "num_filters": [2, 3, 4, 5]}


def epochs():
    return normal(1, 4, 3, 80)


@example("methods.layers.imagined_speech:EEGNet")
def _(module):
    return applied(module(num_classes=2, num_temporal=2, num_separable=4, kernel_size=8), x=epochs())


@example("methods.layers.imagined_speech:ShallowConvNet")
def _(module):
    return applied(module(num_classes=2, num_filters=3, pool_size=20), x=epochs())


@example("methods.layers.imagined_speech:DeepConvNet")
def _(module):
    return applied(module(num_classes=2, num_filters=(2, 3, 4, 5)), x=epochs())


@example("methods.layers.imagined_speech:hinge_loss")
def _(function):
    return function, (jnp.array([0.3, -2.0, 1.7, 0.4]), jnp.array([1, -1, -1, 1])), {}


@example("methods.layers.prompt_guided_masks:PromptCrossAttention")
def _(module):
    where = jnp.array([[True, True, False]] * 4)
    return applied(module(dim=4, num_heads=2), queries=normal(1, 4, 2, 4), text=normal(2, 4, 3, 4), where=where)


@example("methods.layers.prompt_guided_masks:PromptGuidedDecoderLayer")
def _(module):
    inputs = {"queries": normal(1, 4, 2, 4), "image": normal(2, 4, 5, 4), "text": normal(3, 4, 3, 4)}
    masks = {"image_mask": normal(4, 4, 2, 5) > 0, "where": jnp.array([[True, True, False]] * 4)}
    return applied(module(dim=4, num_heads=2, hidden=6), **inputs, **masks)


# -------------------------------------------------------------------------------------------------------------- losses


@example("methods.losses.alignment.kto:sequence_logps")
def _(function):
    labels = jnp.array([[0, 1, 2], [3, 4, 0], [1, 1, 1], [2, 0, 4]], jnp.int32)
    return function, (normal(1, 4, 3, 5), labels), {"where": jnp.array([[True, True, False]] * 4)}


@example("methods.losses.alignment.kto:two_stage_weights")
def _(function):
    return function, (jnp.arange(4),), {"sft_steps": 2}


@example("methods.losses.alignment.kto:linear_merge")
def _(function):
    trees = [{"w": normal(seed, 3, 2), "steps": jnp.array(seed)} for seed in (1, 2, 3)]
    return function, (trees,), {"weights": jnp.array([1.0, 2.0, 0.5])}


@example("methods.losses.alignment.kto:select_alignment_data")
def _(function):
    return function, (normal(1, 8, 3), normal(2, 8)), {"k": 4, "min_score": -1.0, "max_similarity": 0.8}


@example("methods.losses.contrastive.rcrl:sample_segment_pairs")
def _(function):
    return function, (jnp.array([0, 0, 1, 1, 1, 2, 2, 3]),), {"key": KEY, "num_pairs": 5}


@example("methods.losses.contrastive.rcrl:PairDiscriminator")
def _(module):
    return applied(module(hidden=6), z1=normal(1, 4, 3), z2=normal(2, 4, 3))


# ---------------------------------------------------------------------------------------------------------- quantizers


@example("methods.quantizers.clipped_uniform:aggregate")
def _(function):
    return function, ({"w": normal(1, 4, 3), "b": normal(2, 4)}, jnp.full((4, 2), 0.25)), {}


@example("methods.quantizers.clipped_uniform:pack_bits")
def _(function):
    return function, (jnp.array([[3, -4, 0], [-1, 2, 1], [0, 0, -3], [1, -2, 3]]),), {"bits": 3}


@example("methods.quantizers.clipped_uniform:unpack_bits")
def _(function):
    return function, (jnp.array([18, 52, 86, 120], jnp.uint8),), {"bits": 3, "size": 10}


@example("methods.quantizers.clipped_uniform:fake_quantize")
def _(function):
    return function, (normal(1, 4, 3), jnp.array(1.1)), {"bits": 3}


# ------------------------------------------------------------------------------------------------------------ samplers


def look_up(table, token):
    return table, table[token]


@example("methods.samplers.favicomp:decode")
def _(function):
    tables, first = (normal(1, 6, 6), normal(2, 6, 6)), jnp.array([0, 3, 1, 5], jnp.int32)
    return function, (look_up, look_up, *tables, first), {"alpha": jnp.array(0.4), "num_steps": 5, "eos_id": [2, 4]}


@example("methods.samplers.favicomp:compression_rate")
def _(function):
    return function, (normal(1, 4, 9) > 0, normal(2, 4, 5) > 0), {}


# ---------------------------------------------------------------------------------------------------------- transforms


def gradient(x, batch):
    return jax.tree.map(lambda leaf: leaf - batch, x)


PARAMS = {"w": normal(5, 3)}


def a_round(algorithm, **kwargs):
    """A round of four clients, from the state before the first."""

    def build(function):
        from lemmata.methods.transforms import federated_mvr

        state = federated_mvr.init_federated(PARAMS, algorithm=algorithm, **kwargs)
        return function, (state, normal(6, 4, 2, 3)), {"grad_fn": gradient, "weights": jnp.array([0.1, 0.2, 0.3, 0.4])}

    return build


for name, arguments in {
    "fedavg": {},
    "fedadam": {},
    "mime": {},
    "scaffold": {"num_clients": 4},
    "mvr": {"adaptive": True},
}.items():
    example(f"methods.transforms.federated_mvr:{name}_round")(a_round(name, **arguments))


@example("methods.transforms.federated_mvr:init_federated")
def _(function):
    return function, (PARAMS,), {"algorithm": "mvr", "adaptive": True, "direction": {"w": normal(6, 3)}}


@example("methods.transforms.federated_mvr:client_update")
def _(function):
    trees = [{"w": normal(seed, 3)} for seed in (1, 2, 3)]
    return function, (*trees, normal(4, 4, 3)), {"grad_fn": gradient}


@example("methods.transforms.federated_mvr:storm")
def _(function):
    def update(params, gradients, previous_gradients):
        """Two steps of the transformation that `storm` gives."""
        optimizer = function(step_scale=0.5)
        state = optimizer.init(params)
        _, state = optimizer.update(gradients, state, params, previous_grads=gradients)
        return optimizer.update(gradients, state, params, previous_grads=previous_gradients)[0]

    return update, (normal(1, 4), normal(2, 4), normal(3, 4)), {}
