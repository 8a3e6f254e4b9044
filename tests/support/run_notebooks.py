"""Runs notebooks and writes them back with what they gave, so that they can be read without being run.

    python tests/support/run_notebooks.py colabs/*.ipynb

Of a notebook only what its cells give is kept, in one form: a second run differs from the first in nothing but what
the cells really gave otherwise. What a reader has no use for (warnings, addresses in memory, paths of a machine, plots
that are too large) is an error, and the notebook then stays as it was.
"""

import base64
import copy
import io
import os
import re
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import nbclient
import nbformat

MOST_BYTES = 300_000  # of a notebook
DPI = 80  # of its pictures
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
INSTALL = """\
SOURCE = ""  # a folder with lemmata, or its git address (https://...); empty: the checkout that this notebook lies in

try:
    import lemmata  # noqa: F401
except ModuleNotFoundError:
    import importlib
    import pathlib
    import subprocess
    import sys
    import tomllib

    def is_checkout(folder):
        project = folder / "pyproject.toml"
        return project.is_file() and tomllib.loads(project.read_text()).get("project", {}).get("name") == "lemmata"

    here = pathlib.Path.cwd()
    found = [str(f.resolve()) for f in ([pathlib.Path(SOURCE)] if SOURCE else [here, *here.parents]) if is_checkout(f)]
    if not found and "://" not in SOURCE:
        text = "SOURCE must be a folder with lemmata's pyproject.toml, or its git address (https://...)"
        raise ValueError(f"{text}, got {SOURCE!r} in {here}.") from None
    address = found[0] if found else "git+" + SOURCE.removeprefix("git+")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", address], check=True)
    importlib.invalidate_caches()"""


class Took(NamedTuple):
    """What a run took, in seconds: of processors, and of a clock on the wall."""

    processor: float
    wall: float


def tags_of(cell):
    """Methods that a cell is tagged with, `method:NAME`; none: it sets up what others need."""
    tags = cell.metadata.get("tags", [])
    return {tag.removeprefix("method:") for tag in tags if tag.startswith("method:")}


def part(notebook, methods):
    """A copy with the cells that some methods need: theirs, and those without a tag."""
    kept = copy.deepcopy(notebook)
    kept.cells = [cell for cell in kept.cells if not tags_of(cell) or tags_of(cell) & set(methods)]
    return kept


def run(notebook, folder, *, seconds=600):
    """Run every cell in place, in a kernel of its own that sees one device and works in `folder`; what that took."""
    settings = Path(folder) / "matplotlibrc"
    settings.write_text(f"figure.dpi: {DPI}\n")
    environment = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=1", MATPLOTLIBRC=str(settings))
    environment.setdefault("JAX_PLATFORMS", "cpu")
    start, used = time.perf_counter(), of_children()
    client = nbclient.NotebookClient(notebook, timeout=seconds, resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    return Took(of_children() - used, time.perf_counter() - start)


def of_children():
    """Core-seconds of the processes that this one has waited for."""
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime


def normalize(notebook):
    """One form, in place: metadata, ids by place, counts in order, streams joined, pictures without metadata."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[0].source = INSTALL
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"
        cell.metadata = nbformat.from_dict({"tags": sorted(cell.metadata["tags"])} if cell.metadata.get("tags") else {})
    for count, cell in enumerate(code, 1):
        cell.execution_count = count
        cell.outputs = joined(cell.outputs)
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            if "metadata" in output:
                output.metadata = {}
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = plain_png(output.data["image/png"])


def joined(outputs):
    """Outputs with neighbouring parts of one stream as one."""
    kept = []
    for output in outputs:
        if kept and output.output_type == "stream" == kept[-1].output_type and output.name == kept[-1].name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def plain_png(text):
    """The same picture, in base64, without metadata."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        pixels = image.convert("RGB")
    few = pixels.quantize(256)
    if few.convert("RGB").tobytes() == pixels.tobytes():  # as many colors as a palette holds: smaller, and the same
        pixels = few
    pixels.info = {}
    buffer = io.BytesIO()
    pixels.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode() + "\n"


def faults(notebook):
    """What is wrong with a notebook that has been run, one line each."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("text", "") + "".join(
                value for kind, value in output.get("data", {}).items() if kind.startswith("text/")
            )
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"{cell.id} writes an error or warning: {text or output.evalue}")
            if address := re.search(r"\b0x[0-9a-f]{6,}", text):
                found.append(f"{cell.id} shows an address in memory: {address[0]}")
            for folder in (Path.home(), Path(sys.prefix), Path.cwd(), Path(tempfile.gettempdir())):
                if len(folder.parts) > 1 and str(folder) in text:
                    found.append(f"{cell.id} shows a path of this machine: {folder}")
    if not any("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])):
        found.append("there is no picture")
    size = len(nbformat.writes(notebook).encode())
    if size > MOST_BYTES:
        found.append(f"{size} bytes are more than {MOST_BYTES}")
    return found


def main(paths):
    """Run each notebook and write it; the exit status is 1 if one is at fault."""
    status = 0
    for path in map(Path, paths):
        notebook = nbformat.read(path, as_version=4)
        normalize(notebook)
        with tempfile.TemporaryDirectory() as folder:
            took = run(notebook, folder)
        normalize(notebook)
        wrong = faults(notebook)
        if wrong:
            status = 1
            print("\n  ".join([f"{path}: not written", *wrong]))
        else:
            nbformat.write(notebook, path)
            print(f"{path}: {took.processor:.1f} core-seconds, {path.stat().st_size // 1000} kB")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
