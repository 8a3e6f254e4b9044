"""`python -m lemmata.methods`: what methods there are.

With no option, a table for the terminal. `--markdown` writes the same as methods/README.md. `--departures` lists where
an authors' program and their paper differ, and which of the two is followed here.
"""

import argparse
import itertools
import pathlib
import textwrap
from collections.abc import Sequence

from .catalogue import METHODS, Method

README = pathlib.Path(__file__).with_name("README.md")

_README_HEAD = """\
# Methods

One module a paper, one folder a kind; every function is pure, takes arrays first and hyper-parameters by keyword, and
is checked against a reference (`tests/goldens/`). A config runs the paper's claim at small scale.

<!-- Written by `python -m lemmata.methods --markdown`. -->
"""


def by_kind(methods: Sequence[Method]) -> list[tuple[str, list[Method]]]:
    """Kinds in alphabetical order, and their methods, also so."""
    ordered = sorted(methods, key=lambda method: (method.kind, method.name))
    return [(kind, list(group)) for kind, group in itertools.groupby(ordered, key=lambda method: method.kind)]


def table(methods: Sequence[Method]) -> str:
    """For the terminal: a line a method under its kind, then its functions."""
    width = max(len(method.name) for method in methods)
    lines = []
    for kind, group in by_kind(methods):
        lines.append(kind)
        for method in group:
            lines.append(f"  {method.name:<{width}}  {method.year}  {method.source}  {method.title}")
            functions = textwrap.wrap(", ".join(method.functions), 110 - width)
            lines += [" " * (width + 4) + line for line in functions]
    return "\n".join(lines)


def markdown(methods: Sequence[Method]) -> str:
    """The text of methods/README.md."""
    parts = [_README_HEAD]
    for kind, group in by_kind(methods):
        parts += [f"\n## {kind}\n\n", "| method | functions | paper | config |\n| --- | --- | --- | --- |\n"]
        for method in group:
            source = f"[{method.source}]({method.url})" if method.url else method.source
            cells = (
                f"[`{method.name}`]({method.kind}/{method.name}.py) {method.summary}",
                ", ".join(f"`{name}`" for name in method.functions),
                f"{method.title}, {source}, {method.year}",
                f"[{method.config}](../{method.config})",
            )
            parts.append(f"| {' | '.join(cells)} |\n")
    return "".join(parts)


def departures(methods: Sequence[Method]) -> str:
    """One paragraph for each method whose docstring has a `Departures:` passage."""
    noted = [(method, text) for _, group in by_kind(methods) for method in group if (text := method.departures)]
    if not noted:
        return "No method departs from its paper or from a released program."
    return "\n\n".join(
        f"{method.kind}/{method.name} ({method.source})\n{textwrap.indent(textwrap.fill(text, 108), '  ')}"
        for method, text in noted
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and print, or write the README."""
    parser = argparse.ArgumentParser(prog="python -m lemmata.methods", description="List the methods of lemmata.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--markdown", action="store_true", help="write the table to methods/README.md")
    what.add_argument("--departures", action="store_true", help="list where released programs and papers differ")
    options = parser.parse_args(arguments)
    if options.markdown:
        README.write_text(markdown(METHODS), encoding="utf-8")
        print(f"wrote {README}")
    else:
        print(departures(METHODS) if options.departures else table(METHODS))


if __name__ == "__main__":
    main()
