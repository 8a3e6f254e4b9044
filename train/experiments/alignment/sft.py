"""Supervised fine-tuning on the desirable answers."""

from ....core import masked
from ....methods.losses.alignment import kto as method
from . import Coupled, Feedback


def sft(feedback: Feedback) -> Coupled:
    """Imitates the desirable answers; the mean is over those of the whole batch."""

    def of_each():
        answers = feedback.answers
        return method.sft_loss(feedback.policy(answers.tokens), answers.tokens, where=answers.where)

    return Coupled(of_each, lambda nats: masked.mean(nats, feedback.desirable))
