"""What a method may need beyond a loss, and the objective that is made of it.

A family whose arms are trained step by step describes what a loss sees of a batch, and how all arms are evaluated. A
method of it is a function of what is seen, whose keyword-only arguments are its settings:

    def cross_entropy(seen, *, label_smoothing=0.0): ...     losses [batch], or a `losses.Coupled`

One that needs more says so with `@hooks`. It is then a function of the problem, called once when the task is built, and
gives `Hooks`:

    @hooks
    def prototypes(problem, *, momentum=0.9):
        return Hooks(loss=lambda seen, held: ..., variables=lambda key: ..., update=lambda held, seen, each: ...)

A function of a hook is given what it is about, then the method's own parameters, then what is held from step to step:
each of the two only where the method has them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from . import losses
from .sources import Resident
from .task import Objective, Offer, Params, Summary, TwoPass, Variables


class Hooks(NamedTuple):
    """A method in parts; what it has no use for stays None."""

    loss: Callable[..., Any]  # (seen, [own], [held]) -> losses [batch], (losses, metrics), or `Coupled`
    params: Callable[[jax.Array], Params] | None = None  # (key) -> own: trained beside the network's, as class vectors
    variables: Callable[[jax.Array], Variables] | None = None  # (key) -> what is held from step to step
    update: Callable[[Variables, Any, Any], Variables] | None = None
    # (held, seen, each) -> held after a step; each: what the loss gave for each example of the batch, without gradient
    choose: Callable[[Params, Variables, Offer], tuple[jax.Array, Variables]] | None = None  # (params, held, offer)
    candidates: int = 1
    before: optax.GradientTransformation | None = None
    after: optax.GradientTransformation | None = None
    project: Callable[[Params, Variables], Params] | None = None  # (params, held)
    predict: Callable[..., Any] | None = None  # (outputs of the network, [own], [held]) -> predictions
    outputs: int | None = None  # width of the network's outputs, where it is not the family's own


def hooks(function: Callable[..., Hooks]) -> Callable[..., Hooks]:
    """Marks a method that gives `Hooks`."""
    function.gives_hooks = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def hooks_of(method: Callable, problem: Any) -> Hooks:
    """A method's parts, whichever of the two forms it has.

    Args:
        method: with its settings bound, by `functools.partial` or not.
        problem: what the family says before there are data: numbers of classes, of examples, of steps.

    Raises:
        ValueError: it is marked with `@hooks` and gives something else.
    """
    plain = method.func if isinstance(method, functools.partial) else method
    if not getattr(plain, "gives_hooks", False):
        return Hooks(method)
    found = method(problem)
    if not isinstance(found, Hooks):
        raise ValueError(
            f"method {plain.__name__} is marked with @hooks and must give Hooks, got {type(found).__name__}."
        )
    return found


class Split(NamedTuple):
    """Parameters and variables as a method's functions are given them."""

    network: Params
    own: tuple  # the method's parameters and what it holds: neither, one of the two, or both


def split(parts: Hooks, params: Params, held: Variables) -> Split:
    """The network's parameters, and what follows the first argument of a hook.

    Example:
        >>> parts = Hooks(lambda seen, own: 0.0, params=lambda key: {"w": jax.numpy.ones(2)})
        >>> split(parts, {"network": 1, "method": 2}, {})
        Split(network=1, own=(2,))
    """
    network, own = (params, ()) if parts.params is None else (params["network"], (params["method"],))
    return Split(network, own if parts.variables is None else (*own, held))


def make_objective(
    parts: Hooks,
    *,
    init: Callable[[jax.Array, Any], Params],
    see: Callable[[Params, Any, jax.Array], Any],
    evaluate: Callable[..., dict[str, jax.Array]],
    summary: Summary | None = None,
) -> Objective:
    """The objective of a method; gradients of any can be accumulated over micro-batches.

    Args:
        parts: of the method.
        init: `(key, batch) -> params` of the network.
        see: `(params, batch, key) -> what a loss sees of the batch`, of the network's params.
        evaluate: `(params, held, batch, key) -> metrics`, the same for all arms; `split` takes params and held apart.
        summary: likewise.
    """

    def start(key, batch):
        params, held = init(key, batch), {}
        if parts.params is not None:
            params = {"network": params, "method": parts.params(jax.random.fold_in(key, 1))}
        if parts.variables is not None:
            held = parts.variables(jax.random.fold_in(key, 2))
        return params, held

    def call(params, held, batch, key):
        network, own = split(parts, params, held)
        return parts.loss(see(network, batch, key), *own)

    def forward(params, held, batch, key):
        return losses.of_each(call(params, held, batch, key), _size(batch))

    def combine(each, params, held, batch, key):
        loss, metrics = losses.of_batch(each, lambda: call(params, held, batch, key))
        if parts.update is not None:
            seen = see(jax.lax.stop_gradient(split(parts, params, held).network), batch, key)
            held = parts.update(held, seen, jax.lax.stop_gradient(each[0]))
        return loss, (held, metrics)

    return Objective(
        start,
        TwoPass(forward, combine),
        evaluate,
        summary=summary,
        before=parts.before,
        after=parts.after,
        project=parts.project,
        choose=parts.choose,
        candidates=parts.candidates,
    )


def _size(batch: Any) -> int | None:
    """Examples of a batch; None where it is one of several sources, with sizes of their own."""
    rows = batch.batch if isinstance(batch, Resident) else batch
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(rows)}
    return sizes.pop() if len(sizes) == 1 else None
