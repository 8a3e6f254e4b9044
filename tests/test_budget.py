"""What tests cost, to whom it goes, and how it is told."""

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import budget
import pytest

SUPPORT = Path(__file__).parent / "support"
BURN = """
import time

def spend(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""
CLOCK = """
import budget

def spend(seconds):
    budget.processor_time.now += seconds
"""
TREE = {
    "methods/__init__.py": "",
    "methods/bounds/__init__.py": "",
    "methods/bounds/demi.py": "",
    "methods/losses/__init__.py": "",
    "methods/losses/kto.py": "",
    "tests/core/test_trees.py": "def test():\n    spend(0.2)",
    "colabs/both.ipynb": '{"cells": [{"cell_type": "code", "metadata": {}, "source": "demi, kto"}]}',
    "tests/e2e/test_notebooks.py": """
import pathlib
import pytest

PATH = pathlib.Path(__file__).parents[2] / "colabs" / "both.ipynb"

@pytest.mark.parametrize("path", [PATH], ids=["both"])
def test_notebook(path, record_property):
    spend(0.4)
    record_property("shares", {"demi": 1.0, "kto": 2.0, "": 1.0})
""",
    "tests/methods/losses/test_kto.py": """
import pytest

@pytest.fixture(scope="module")
def dear():
    spend(0.3)
    yield
    spend(0.1)

def test_before():
    pass

def test_first(dear):
    pass

def test_second(dear):
    spend(0.2)
""",
    "tests/test_goldens.py": """
import pytest

class Case:
    def __init__(self, call):
        self.call = call

CASES = [Case("methods.bounds.demi:a"), Case("methods.bounds.demi:b"), Case("methods.losses.kto:c")]

@pytest.mark.parametrize("case", CASES, ids=lambda case: case.call[-1])
def test_golden(case):
    spend(0.1)
""",
}


class Clock:
    """Processor time that the tests of the small tree set."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def tree(pytester, monkeypatch):
    """A small tree of the same layout, whose tests spend time that is told by their own clock."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        monkeypatch.delitem(sys.modules, name)  # a run in this process would take ours for its own
    monkeypatch.setattr(budget, "processor_time", Clock())
    write(pytester.path, CLOCK)
    pytester.makepyprojecttoml(
        f'[tool.pytest.ini_options]\ntestpaths = ["tests"]\npythonpath = ["{SUPPORT}"]\n'
        'addopts = "--import-mode=importlib -p selection -p budget -p no:cacheprovider"\n'
    )
    return pytester


def write(root, head):
    for name, text in TREE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(head + text if name.startswith("tests/") else text)


def rows(result):
    """Name -> what the columns of its row say."""
    lines = [line.split() for line in result.outlines]
    return {words[0]: [float(word) for word in words[1:]] for words in lines if words[:1] in (["demi"], ["kto"])}


def test_costs_go_to_methods_by_part_and_to_rooms(tree):
    result = tree.runpytest()
    assert rows(result) == {"kto": [0.1, 0.6, 0.2, 0.9], "demi": [0.2, 0.1, 0.3]}  # goldens, units, notebook, sum
    result.stdout.fnmatch_lines(
        [
            "*core-seconds a method, of 20*",
            " *golden*conformance*unit*config*notebook*sum",
            "kto *",
            "demi *",
            "mean of 2 *0.6",
            "no method's: 0.3 (core 0.2, notebook 0.1, start and collection 0.0)",
            "over 20: none",
            "at this mean, on 2 cores: 2 methods now 0.0 min, 75 methods 0.4 min, 135 methods 0.7 min",
        ]
    )


def test_who_is_over_is_named_and_fails_the_run_on_request_alone(tree, monkeypatch):
    monkeypatch.setattr(budget, "BUDGET", 0.5)
    relaxed, strict = tree.runpytest(), tree.runpytest("--budget-strict")
    for result in (relaxed, strict):
        result.assert_outcomes(passed=8)
        result.stdout.fnmatch_lines(["over 0.5: kto (0.9)"])
    assert (relaxed.ret, strict.ret) == (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    monkeypatch.setattr(budget, "BUDGET", 1.0)
    assert tree.runpytest("--budget-strict").ret == pytest.ExitCode.OK


def test_a_quick_test_that_is_slow_is_named(tree, monkeypatch):
    monkeypatch.setattr(budget, "SLOW", 0.25)
    result = tree.runpytest()
    result.stdout.fnmatch_lines(["over 0.25 and not marked slow: tests/methods/losses/test_kto.py::test_first 0.3*"])


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ((), True),
        (("--method=kto",), True),
        (("tests/core",), False),
        (("-k", "first"), False),
        (("-m", "quick"), False),
        (("-k", "first", "--budget"), True),
        (("tests/core", "--budget-strict"), True),
    ],
)
def test_the_table_is_for_runs_that_are_not_narrowed(tree, arguments, shown):
    assert ("core-seconds a method" in tree.runpytest(*arguments).stdout.str()) == shown


@pytest.mark.slow
def test_workers_tell_the_controller(pytester):
    write(pytester.path, BURN)
    pytester.makepyprojecttoml(
        f'[tool.pytest.ini_options]\ntestpaths = ["tests"]\npythonpath = ["{SUPPORT}"]\n'
        'addopts = "--import-mode=importlib -p selection -p budget -p no:cacheprovider"\n'
    )
    result = pytester.runpytest_subprocess("-n", "2")
    result.assert_outcomes(passed=8)
    assert rows(result)["kto"][0] >= 0.1
    assert rows(result)["kto"][-1] >= 0.9
    assert rows(result)["demi"][-1] >= 0.3
    (apart,) = [line for line in result.outlines if line.startswith("no method's:")]
    assert float(re.search(r"start and collection ([\d.]+)", apart)[1]) > 0.1  # of three processes


def test_processor_time_is_that_of_all_threads_and_of_children():
    def burn():
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass

    before = budget.processor_time()
    thread = threading.Thread(target=burn)
    thread.start()
    thread.join()
    after_thread = budget.processor_time()
    assert after_thread - before >= 0.19
    program = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert budget.processor_time() - after_thread >= 0.29


def test_minutes_ahead_are_the_fixed_part_and_the_mean():
    costs = budget.Costs()
    costs.processes = 400.0
    for method, seconds in (("a", 10.0), ("b", 30.0)):
        costs.add("t", {"seconds": seconds, "methods": [method], "part": "unit", "quick": False})
    costs.add("t", {"seconds": 120.0, "methods": [], "part": "core", "quick": False})
    assert costs.over == {"b": 30.0}
    assert costs.apart == {"start and collection": 240.0, "core": 120.0}
    # (360 + 20 n) / 2 / 60
    assert costs.table()[-1].endswith("2 methods now 3.3 min, 75 methods 15.5 min, 135 methods 25.5 min")


def test_a_run_without_methods_has_rooms_alone():
    costs = budget.Costs()
    costs.add("t", {"seconds": 1.0, "methods": [], "part": "core", "quick": True})
    assert costs.table() == ["no method's: 1.0 (core 1.0, start and collection 0.0)"]
