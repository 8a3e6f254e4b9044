"""`python -m lemmata.methods`: what methods there are.

With no option, a table for the terminal. `--markdown` writes the same as methods/README.md. `--departures` lists where
an authors' program and their paper differ, and which of the two is followed here. `--cite NAME` prints the paper of a
method as a BibTeX entry.
"""

import argparse
import itertools
import pathlib
import textwrap
from collections.abc import Sequence

from .catalogue import Method, methods, nearest, places, read

README = pathlib.Path(__file__).with_name("README.md")

_README_HEAD = """\
# Methods

One module a paper, one folder a kind; every function is pure, takes arrays first and hyper-parameters by keyword, and
is checked against a reference (`tests/goldens/`). A config runs the paper's claim at small scale.

<!-- Written by `python -m lemmata.methods --markdown`. -->
"""


def by_kind(records: Sequence[Method]) -> list[tuple[str, list[Method]]]:
    """Kinds in alphabetical order, and their methods, also so."""
    ordered = sorted(records, key=lambda method: (method.kind, method.name))
    return [(kind, list(group)) for kind, group in itertools.groupby(ordered, key=lambda method: method.kind)]


def table(records: Sequence[Method]) -> str:
    """For the terminal: a line a method under its kind, then its functions."""
    width = max(len(method.name) for method in records)
    lines = []
    for kind, group in by_kind(records):
        lines.append(kind)
        for method in group:
            lines.append(f"  {method.name:<{width}}  {method.year}  {method.source}  {method.title}")
            functions = textwrap.wrap(", ".join(method.functions), 110 - width)
            lines += [" " * (width + 4) + line for line in functions]
    return "\n".join(lines)


def markdown(records: Sequence[Method]) -> str:
    """The text of methods/README.md."""
    parts = [_README_HEAD]
    for kind, group in by_kind(records):
        parts += [f"\n## {kind}\n\n", "| method | functions | paper | config |\n| --- | --- | --- | --- |\n"]
        for method in group:
            source = f"[{method.source}]({method.url})" if method.url else method.source
            cells = (
                f"[`{method.name}`]({method.path}) {method.summary}",
                ", ".join(f"`{name}`" for name in method.functions),
                f"{method.title}, {source}, {method.year}",
                f"[{method.config}](../{method.config})",
            )
            parts.append(f"| {' | '.join(cells)} |\n")
    return "".join(parts)


def departures(records: Sequence[Method]) -> str:
    """One paragraph for each method whose docstring has a `Departures:` passage."""
    noted = [(method, text) for _, group in by_kind(records) for method in group if (text := method.departures)]
    if not noted:
        return "No method departs from its paper or from a released program."
    return "\n\n".join(
        f"{method.kind}/{method.name} ({method.source})\n{textwrap.indent(textwrap.fill(text, 108), '  ')}"
        for method, text in noted
    )


def cite(name: str) -> str:
    """The BibTeX entry of a method.

    Raises:
        ValueError: no method has that name.
    """
    if name not in places():
        raise ValueError(f"--cite must name a method, got {name!r}; the nearest is {nearest(name, places())!r}.")
    return read(places()[name]).bibtex


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and print, or write the README."""
    parser = argparse.ArgumentParser(prog="python -m lemmata.methods", description="List the methods of lemmata.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--markdown", action="store_true", help="write the table to methods/README.md")
    what.add_argument("--departures", action="store_true", help="list where released programs and papers differ")
    what.add_argument("--cite", metavar="NAME", help="print the paper of a method as a BibTeX entry")
    options = parser.parse_args(arguments)
    if options.markdown:
        README.write_text(markdown(methods()), encoding="utf-8")
        print(f"wrote {README}")
    elif options.cite is not None:
        try:
            print(cite(options.cite))
        except ValueError as error:
            raise SystemExit(str(error)) from None
    else:
        print(departures(methods()) if options.departures else table(methods()))


if __name__ == "__main__":
    main()
