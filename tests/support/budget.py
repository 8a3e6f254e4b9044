"""What the tests cost, by method: a table at the end of a run. A pytest plugin.

A cost is processor time in core-seconds, of all threads (XLA's compiler has several) and of processes that a test
started and waited for. It is measured from before the set-up of a test to after its tear-down, so that a fixture that
several tests share falls on the one where it ran. It goes to the test's owner (`support/selection.py`); one whose
property `shares`, a weight by method, was recorded is divided by these weights, the share of "" being the room's.

The budget is 20 core-seconds a method. To be over it is reported, and is a failure with `--budget-strict`. The table is
for runs that are not narrowed by a path, `-k` or `-m`; `--budget` asks for it in any case.
"""

import resource
from collections import defaultdict
from collections.abc import Mapping

import pytest
from selection import OWNERS

BUDGET = 20.0  # core-seconds a method
SLOW = 5.0  # core-seconds of a test that is to be marked slow
PARTS = ("golden", "conformance", "unit", "config", "notebook")
OUTLOOK, CORES = (75, 135), 2
COST, SHARES, TOTAL = "cost", "shares", "lemmata_core_seconds"

STARTED = pytest.StashKey[float]()
COSTS = pytest.StashKey["Costs"]()


def processor_time() -> float:
    """Core-seconds of this process so far, with those of its children that it waited for."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


class Costs:
    """Core-seconds of a run: of methods by part, of rooms, of whole processes, and of quick tests that are slow."""

    def __init__(self):
        self.methods: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.rooms: dict[str, float] = defaultdict(float)
        self.processes = 0.0
        self.unmarked: dict[str, float] = {}

    def add(self, test: str, cost: Mapping, shares: Mapping[str, float] | None = None) -> None:
        """What one test took, on the account of its owner."""
        seconds, methods = cost["seconds"], cost["methods"]
        if cost["quick"] and seconds > SLOW:
            self.unmarked[test] = seconds
        weights = {name: weight for name, weight in (shares or dict.fromkeys(methods, 1.0)).items() if weight > 0}
        for name, weight in weights.items():
            part = seconds * weight / sum(weights.values())
            if name:
                self.methods[name][cost["part"]] += part
            else:
                self.rooms[cost["part"]] += part
        if not weights:
            self.rooms[cost["part"]] += seconds

    @property
    def sums(self) -> dict[str, float]:
        """By method, the dearest first."""
        sums = {name: sum(parts.values()) for name, parts in self.methods.items()}
        return dict(sorted(sums.items(), key=lambda entry: -entry[1]))

    @property
    def over(self) -> dict[str, float]:
        """The methods that are over the budget."""
        return {name: total for name, total in self.sums.items() if total > BUDGET}

    @property
    def apart(self) -> dict[str, float]:
        """What is no method's, the dearest first; what no test took is start, imports and collection."""
        tests = sum(self.sums.values()) + sum(self.rooms.values())
        apart = dict(self.rooms) | {"start and collection": max(self.processes - tests, 0.0)}
        return dict(sorted(apart.items(), key=lambda entry: -entry[1]))

    def table(self) -> list[str]:
        """The lines that end a run."""
        sums, width = self.sums, max(map(len, [*self.methods, "mean of 100"]))
        lines = []
        if sums:
            mean = {part: sum(m[part] for m in self.methods.values()) / len(sums) for part in PARTS}
            lines.append(f"{'':{width}}  {'  '.join(f'{part:>11}' for part in PARTS)}  {'sum':>7}")
            lines += [_row(name, width, self.methods[name], total) for name, total in sums.items()]
            lines.append(_row(f"mean of {len(sums)}", width, mean, sum(mean.values())))
        apart = self.apart
        listed = ", ".join(f"{name} {seconds:.1f}" for name, seconds in apart.items())
        lines.append(f"no method's: {sum(apart.values()):.1f} ({listed})")
        if self.unmarked:
            dear = sorted(self.unmarked.items(), key=lambda entry: -entry[1])
            lines.append(f"over {SLOW:g} and not marked slow: {', '.join(f'{n} {s:.1f}' for n, s in dear)}")
        if sums:
            over = ", ".join(f"{name} ({total:.1f})" for name, total in self.over.items())
            lines.append(f"over {BUDGET:g}: {over or 'none'}")
            counts = {len(sums): "now", **dict.fromkeys(OUTLOOK, "")}
            minutes = {n: (sum(apart.values()) + n * sum(sums.values()) / len(sums)) / CORES / 60 for n in counts}
            told = ", ".join(f"{n} methods{' ' * bool(counts[n])}{counts[n]} {minutes[n]:.1f} min" for n in counts)
            lines.append(f"at this mean, on {CORES} cores: {told}")
        return lines


def _row(name: str, width: int, parts: Mapping[str, float], total: float) -> str:
    cells = (f"{parts[part]:>11.1f}" if parts.get(part) else f"{'':>11}" for part in PARTS)
    return f"{name:{width}}  {'  '.join(cells)}  {total:>7.1f}"


# ---------------------------------------------------------------------------------------------------------- the plugin


def pytest_addoption(parser):
    group = parser.getgroup("lemmata")
    group.addoption("--budget", action="store_true", help="end with the table of costs, however narrow the run is")
    group.addoption("--budget-strict", action="store_true", help=f"fail if a method takes over {BUDGET:g} core-seconds")


def pytest_configure(config):
    config.stash[COSTS] = Costs()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    item.stash[STARTED] = processor_time()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    if call.when == "teardown":
        owner, quick = item.config.stash[OWNERS].of(item), item.get_closest_marker("quick") is not None
        seconds = processor_time() - item.stash[STARTED]
        cost = {"seconds": seconds, "methods": list(owner.methods), "part": owner.part, "quick": quick}
        item.user_properties.append((COST, cost))
    return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    costs = node.config.stash[COSTS]
    costs.processes += getattr(node, "workeroutput", {}).get(TOTAL, 0.0)  # one that crashed has told nothing


class Accounts:
    """Of the process that reports, which hears of all tests."""

    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        properties = dict(report.user_properties)
        if report.when == "teardown" and COST in properties:
            self.config.stash[COSTS].add(report.nodeid, properties[COST], properties.get(SHARES))

    def pytest_sessionfinish(self, session):
        costs = self.config.stash[COSTS]
        costs.processes += processor_time()
        if self.config.getoption("budget_strict") and costs.over and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter):
        costs = self.config.stash[COSTS]
        if (costs.methods or costs.rooms) and is_shown(self.config):
            terminalreporter.section(f"core-seconds a method, of {BUDGET:g}")
            for line in costs.table():
                terminalreporter.write_line(line)


def is_shown(config) -> bool:
    """Whether the run ends with the table."""
    if any(config.getoption(name) for name in ("budget", "budget_strict", "method")):
        return True
    narrowed = config.getoption("keyword") or config.getoption("markexpr") or config.getoption("since") is not None
    return not narrowed and config.args_source is not pytest.Config.ArgsSource.ARGS


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session):
    config = session.config
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Accounts(config), "lemmata_accounts")


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[TOTAL] = processor_time()
