"""Prepares data sets and lists them: `python -m lemmata.train.data [NAME ...] [--all]`.

A NAME is a bundled set or a TFDS name, which needs a network. Without arguments it lists what is bundled.
"""

import argparse
import os
import sys

from ..engine import mistakes
from . import info, names, store, tables


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status, which is 1 if a set could not be prepared.

    What a user can mend (a name, a folder, a network) is told in one line, and the other names still get their turn. A
    fault of the program ends it with a traceback, as everything does with `LEMMATA_TRACEBACK` in the environment.
    """
    parser = argparse.ArgumentParser(prog="python -m lemmata.train.data", description="Prepare and list data sets.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a bundled set, or a TFDS name (needs a network)")
    parser.add_argument("--all", action="store_true", help="every bundled set")
    options = parser.parse_args(arguments)
    wanted = list(dict.fromkeys([*options.names, *(names() if options.all else ())]))
    if not wanted:
        parser.print_usage()
        print(f"bundled: {', '.join(names())}\nfolder:  {store.root()}")
        return 0
    status = 0
    print(f"{'name':<16}{'splits':<42}{'MB':>8}  path")
    for name in wanted:
        try:
            if tables.is_file(name):
                raise ValueError(f"{name!r} is a file; it is read as it is, and there is nothing to prepare.")
            path = store.prepare(name)
            splits = ", ".join(f"{split} {size}" for split, size in info(name).splits.items())
        except (ValueError, OSError) as error:
            told = isinstance(error, OSError) or mistakes.is_mistake(error)
            if not told or os.environ.get("LEMMATA_TRACEBACK"):
                raise
            status = mistakes.say(error, 1)
            continue
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
        print(f"{name:<16}{splits:<42}{size:>8.2f}  {path}")
    return status


if __name__ == "__main__":
    sys.exit(main())
