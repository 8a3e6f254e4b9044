"""Small environments in pure JAX, for agents that act and learn inside one program."""

from . import gridworld
from .base import Environment, Step

__all__ = ["ENVIRONMENTS", "Environment", "Step"]

# name -> (data section of a config) -> Environment
ENVIRONMENTS = {"gridworld": gridworld.make}
