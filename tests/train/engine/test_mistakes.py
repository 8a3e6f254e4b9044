"""What a command says: a user's mistake in one line, a fault of the program as a traceback, never one as the other."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from lemmata.core import checks
from lemmata.methods.bounds import demi
from lemmata.train.engine import mistakes
from lemmata.train.experiments import get
from lemmata.train.judge import config as configs


def raised(function):
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


MISTAKES = {
    "a check": lambda: checks.in_interval("alpha", 2.0, 0.0, 1.0),
    "a method": lambda: demi.info_nce_bound(jnp.zeros(2), jnp.zeros((3, 2))),
    "a config": lambda: configs.complete(configs.ConfigDict(dict(experiment="nothing"))),
    "a name": lambda: get("nothing"),
}
FAULTS = {
    "a library's": lambda: np.zeros((2, 3)).reshape(7),
    "json's": lambda: json.loads("{"),
    "unpacking": lambda: configs.flatten(None),
    "a key": lambda: configs.defaults().train["nothing"],
    "an int of ours": lambda: configs.resolve_arm(configs.defaults(), ["a list"]),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_what_lemmata_raises_on_purpose_is_one_line(what, capsys):
    assert mistakes.is_mistake(raised(MISTAKES[what]))
    with pytest.raises(SystemExit) as ended, mistakes.told_in_one_line():
        MISTAKES[what]()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("what", FAULTS)
def test_what_comes_up_by_itself_is_a_traceback(what):
    error = raised(FAULTS[what])
    assert not mistakes.is_mistake(error)
    with pytest.raises(type(error)), mistakes.told_in_one_line():
        FAULTS[what]()


@pytest.mark.parametrize("error", [OSError("no space left"), mistakes.RunFailed("22 of 60 updates were skipped")])
def test_what_fails_on_the_way_has_status_one(error, capsys):
    def fail():
        raise error

    with pytest.raises(SystemExit) as ended, mistakes.told_in_one_line():
        fail()
    assert ended.value.code == 1
    assert str(error) in capsys.readouterr().err


def test_flags_are_the_users(monkeypatch):
    with pytest.raises(SystemExit), mistakes.told_in_one_line():
        raise flags.UnrecognizedFlagError("nothing")
    monkeypatch.setenv("LEMMATA_TRACEBACK", "1")
    with pytest.raises(flags.Error), mistakes.told_in_one_line():
        raise flags.UnrecognizedFlagError("nothing")


def test_what_a_library_says_of_the_users_words_is_told_as_theirs():
    with pytest.raises(ValueError, match="arguments: b1") as found, mistakes.expected("arguments"):
        {}["b1"]
    assert mistakes.is_mistake(found.value)
