"""KTO on unpaired answers."""

import functools

import jax
import jax.numpy as jnp

from ....methods.losses.alignment import kto as method
from . import Coupled, Feedback


def kto(
    feedback: Feedback, *, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> Coupled:
    """Raises desirable answers and lowers the others, steepest at a reference point that the whole batch gives."""

    def logps(model, answers):
        return method.sequence_logps(model(answers.tokens), answers.tokens, where=answers.where)

    def of_each():
        both = jax.tree.map(lambda *x: jnp.stack(x), feedback.answers, feedback.mismatched)
        reference, mismatched_reference = jax.vmap(functools.partial(logps, feedback.reference))(both)  # in one pass
        return {
            "policy": logps(feedback.policy, feedback.answers),
            "reference": reference,
            "mismatched_policy": logps(feedback.fixed_policy, feedback.mismatched),
            "mismatched_reference": mismatched_reference,
        }

    def of_batch(found):
        point = method.kl_reference_point(found["mismatched_policy"], found["mismatched_reference"])
        losses = method.kto_loss(
            found["policy"],
            found["reference"],
            feedback.desirable,
            point,
            beta=beta,
            desirable_weight=desirable_weight,
            undesirable_weight=undesirable_weight,
        )
        return losses, {"reference_point": point}

    return Coupled(of_each, of_batch)
