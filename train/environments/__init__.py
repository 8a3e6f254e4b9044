"""Small environments in pure JAX, for agents that act and learn inside one program."""

from . import gridworld
from .base import Environment, Step, check_environment

__all__ = ["ENVIRONMENTS", "Environment", "Step", "check_environment"]

# name -> (data section of a config) -> Environment
ENVIRONMENTS = {"gridworld": gridworld.make}
