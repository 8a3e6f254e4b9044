"""What a command says when it fails: a user's mistake in one line, a fault of the program as a traceback.

lemmata says what it expects by raising a `ValueError` on purpose. An error that comes up by itself, in a library or in
one of our own expressions, was expected by nobody, and where it comes from is what matters.
"""

import contextlib
import dis
import os
import sys
from collections.abc import Iterator

from absl import flags

RAISE = dis.opmap["RAISE_VARARGS"]
PACKAGE = __name__.split(".")[0]


class RunFailed(RuntimeError):
    """A run came to an end that is no result."""


@contextlib.contextmanager
def told_in_one_line() -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and exit status 2, what failed on the way into status 1.

    With `LEMMATA_TRACEBACK` in the environment, everything passes through with its traceback.
    """
    try:
        yield
    except (ValueError, flags.Error) as error:
        if not is_mistake(error) or os.environ.get("LEMMATA_TRACEBACK"):
            raise
        sys.exit(say(error, 2))
    except (OSError, RunFailed) as error:
        if os.environ.get("LEMMATA_TRACEBACK"):
            raise
        sys.exit(say(error, 1))


def is_mistake(error: BaseException) -> bool:
    """Whether an error is lemmata's answer to what it was given: raised by a `raise` of its own, or by absl's flags."""
    if isinstance(error, flags.Error):
        return True
    if not isinstance(error, ValueError) or error.__traceback__ is None:
        return False
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    names = last.tb_frame.f_globals
    module = getattr(names.get("__spec__"), "name", None) or names.get("__name__", "")  # a command is "__main__"
    return module.split(".")[0] == PACKAGE and last.tb_frame.f_code.co_code[last.tb_lasti] == RAISE


@contextlib.contextmanager
def expected(what: str) -> Iterator[None]:
    """Where whatever goes wrong is about `what` the user wrote: a library that reads it, say."""
    try:
        yield
    except flags.Error:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, SyntaxError) as error:
        if is_mistake(error):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ValueError(f"{what}: {text}") from error


def say(error: BaseException, status: int) -> int:
    """Print what went wrong on stderr, in one line; returns the status."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return status
