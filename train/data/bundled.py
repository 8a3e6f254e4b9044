"""Real data that needs no network: what scikit-learn and CPython install with themselves, and how it is split.

Every split depends on content alone, never on the order of a file, a dict or a directory. About a fifth is for
testing: of each class, the rows with the lowest SHA-256; of documents, those that fit in a fifth of the bytes, taken in
the order of the SHA-256 of their names. What is left is stored as "train"; `splits` takes the validation split from it.
"""

import hashlib
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Splits = dict[str, dict[str, np.ndarray]]

_STRATIFIED = (
    "Split: of each class, the fifth (rounded) of the rows with the lowest SHA-256 is the test split, and equal rows "
    "have equal digests; rows keep scikit-learn's order."
)
_STANDARDISED = "Features are standardised by the mean and standard deviation of train+validation."
_BY_DOCUMENT = (
    "Split by document: in the order of the SHA-256 of its name, a document goes to the test split while that stays "
    "within a fifth of all bytes. Differs between versions of Python, each of which has its own set."
)

TABLES = {
    "digits": f"Handwritten digits (UCI): 8x8 grey images, ink 0..16 divided by 16; label 0..9. {_STRATIFIED}",
    "breast_cancer": f"Wisconsin diagnostic breast cancer: 30 features, 2 classes. {_STANDARDISED} {_STRATIFIED}",
    "wine": f"Wine recognition (UCI): 13 features, 3 cultivars. {_STANDARDISED} {_STRATIFIED}",
    "iris": f"Iris plants: 4 features, 3 species. {_STANDARDISED} {_STRATIFIED}",
    "diabetes": (
        "Diabetes progression after one year: 10 features, a real target, which is standardised like the features "
        f"(an error of 1 is one standard deviation of these targets). {_STANDARDISED} {_STRATIFIED} "
        "Here all rows are one class."
    ),
}
DOCUMENTS = {
    "python_docs": (
        "The topics of Python's language reference (pydoc_data.topics), English, one document a topic. Topics repeat "
        "each other's sections: a paragraph stays in the longest topic that has it, and a topic that loses more than "
        f"half of itself that way is left out, so that the test split is not in the training split. {_BY_DOCUMENT}"
    ),
    "python_source": (
        "The .py files of the running interpreter's standard library, one document a file, without tests, character "
        f"tables (encodings), pydoc_data, third-party packages, empty files and copies. {_BY_DOCUMENT}"
    ),
}
CHUNKS = {
    "python_modules": (
        "Chunks of 12 lines of the running interpreter's standard library, blank lines left out; label: which module. "
        "Of the files of python_source, those with at least 30 chunks, without idlelib, lib2to3 and distutils; 151 "
        "modules in CPython 3.11.7. Then a chunk that repeats 8 lines or more of an earlier one is left out. Split: of "
        "each module, the fifth (rounded) of the chunks with the lowest SHA-256 is the test split; chunks keep their "
        "order. Differs between versions of Python, each of which has its own set."
    ),
}
VERSION = "1.0.0"  # of what is written; raise it when a rule of this file changes, and old data is left alone
INTERPRETER = re.sub(r"\W", "_", f"{platform.python_implementation()}_{platform.python_version()}".lower())
_NOT_SOURCE = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
_LINES, _LEAST, _REPEATED = 12, 30, 8  # of a chunk, of a module's chunks, and what makes a chunk a copy
_NOT_MODULES = {"idlelib", "lib2to3", "distutils"}  # applications and what later versions have no more


def location(name: str) -> str:
    """A bundled set's folder below the data folder, as TFDS lays it out: `lemmata_<name>/[<interpreter>/]<version>`."""
    return "/".join([f"lemmata_{name}", *([INTERPRETER] if name not in TABLES else []), VERSION])


def table(name: str) -> Splits:
    """One of scikit-learn's sets.

    Args:
        name: a key of `TABLES`.

    Returns:
        "train" and "test", each with rows `[n, ...]` in scikit-learn's order: `image` float32 `[n, 8, 8, 1]` in [0, 1]
        (digits) or `features` float32 `[n, d]`, standardised; and `label` int64 `[n]`, or `target` float32 `[n]`.
    """
    from sklearn import datasets  # seconds to import, and only needed to write the set

    bunch: Any = datasets.load_diabetes(scaled=False) if name == "diabetes" else getattr(datasets, f"load_{name}")()
    rows, target = np.asarray(bunch.data, np.float64), np.asarray(bunch.target)
    regression = name == "diabetes"
    test = held_out(rows, np.zeros(len(rows)) if regression else target)
    if name == "digits":
        columns = {"image": (rows / 16.0).reshape(-1, 8, 8, 1).astype(np.float32), "label": target.astype(np.int64)}
    elif regression:
        columns = {"features": _standardised(rows, ~test), "target": _standardised(target.astype(np.float64), ~test)}
    else:
        columns = {"features": _standardised(rows, ~test), "label": target.astype(np.int64)}
    return {split: {k: v[where] for k, v in columns.items()} for split, where in (("train", ~test), ("test", test))}


def class_names(name: str) -> list[str] | None:
    """Names of the classes of a table, in the order of its labels; None for a regression."""
    names = {
        "digits": list("0123456789"),
        "breast_cancer": ["malignant", "benign"],
        "wine": ["class_0", "class_1", "class_2"],
        "iris": ["setosa", "versicolor", "virginica"],
    }
    return names.get(name)


def held_out(rows: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Which rows are for testing: of each stratum, the fifth with the lowest SHA-256.

    Args:
        rows: `[n, d]`, hashed as little-endian float64; equal rows rank together.
        strata: `[n]`, the classes that are each split.

    Returns:
        `[n]` bool, True for `round(size / 5)` rows of each stratum.
    """
    return _lowest_fifth([hashlib.sha256(row.tobytes()).digest() for row in np.ascontiguousarray(rows, "<f8")], strata)


def _lowest_fifth(digests: Sequence[bytes], strata: np.ndarray) -> np.ndarray:
    test = np.zeros(len(digests), bool)
    for stratum in np.unique(strata):
        members = sorted(np.flatnonzero(strata == stratum).tolist(), key=lambda row: (digests[row], row))
        test[members[: round(len(members) / 5)]] = True
    return test


def _standardised(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    return ((values - values[train].mean(0)) / values[train].std(0)).astype(np.float32)


def documents(name: str) -> dict[str, dict[str, bytes]]:
    """The documents of a set of text: "train" and "test", each name -> bytes without NUL, sorted by name."""
    texts = _python_docs() if name == "python_docs" else _python_source()
    budget = sum(map(len, texts.values())) // 5
    test = set()
    for key in sorted(texts, key=lambda key: hashlib.sha256(key.encode()).digest()):
        if len(texts[key]) <= budget:
            budget -= len(texts[key])
            test.add(key)
    keys = sorted(texts)
    return {
        "train": {key: texts[key] for key in keys if key not in test},
        "test": {key: texts[key] for key in keys if key in test},
    }


def _python_docs() -> dict[str, bytes]:
    from pydoc_data.topics import topics

    seen: set[str] = set()
    texts = {}
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        paragraphs = topics[name].split("\n\n")
        plain = [" ".join(paragraph.split()) for paragraph in paragraphs]  # a repeated section may be indented anew
        text = "\n\n".join(p for p, words in zip(paragraphs, plain, strict=True) if words not in seen)
        if 2 * len(text) >= len(topics[name]):
            texts[name] = text.encode()
            seen.update(plain)
    return texts


def _python_source() -> dict[str, bytes]:
    library = Path(sysconfig.get_path("stdlib"))
    texts: dict[str, bytes] = {}
    copies: set[bytes] = set()
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if not _NOT_SOURCE.isdisjoint(parts) or parts[-1].startswith("_sysconfigdata"):  # that one describes a machine
            continue
        text = path.read_bytes()
        if text and b"\0" not in text and text not in copies:
            copies.add(text)
            texts["/".join(parts)] = text
    if not texts:
        raise ValueError(f"python_source needs the standard library as .py files, but {library} has none.")
    return texts


def modules() -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """The chunks of `python_modules` and the names of its classes.

    Returns:
        "train" and "test", each with `text`, objects `[n]`, bytes, and `label`, int64 `[n]`; and the modules, sorted.
    """
    texts = {path: text for path, text in _python_source().items() if _NOT_MODULES.isdisjoint(path.split("/"))}
    chunks = {_module(path): _chunks(texts[path]) for path in sorted(texts)}
    chunks = _without_copies({module: found for module, found in chunks.items() if len(found) >= _LEAST})
    names = sorted(chunks)
    text = np.array([b"\n".join(chunk) for name in names for chunk in chunks[name]], object)
    label = np.repeat(np.arange(len(names)), [len(chunks[name]) for name in names])
    test = _lowest_fifth([hashlib.sha256(chunk).digest() for chunk in text], label)
    return {key: {"text": text[rows], "label": label[rows]} for key, rows in (("train", ~test), ("test", test))}, names


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _chunks(text: bytes) -> list[list[bytes]]:
    lines = [line.rstrip() for line in text.split(b"\n") if line.strip()]
    return [lines[start : start + _LINES] for start in range(0, len(lines) - _LINES + 1, _LINES)]


def _without_copies(chunks: dict[str, list[list[bytes]]]) -> dict[str, list[list[bytes]]]:
    """The chunks that repeat fewer lines of every earlier one. Lines of three characters or fewer do not count."""
    frequency = Counter(line.strip() for found in chunks.values() for chunk in found for line in chunk)
    seen: dict[bytes, list[set[bytes]]] = {}  # line -> those of the chunks that have it
    kept: dict[str, list[list[bytes]]] = {}
    for module, chunk in [(module, chunk) for module, found in chunks.items() for chunk in found]:
        lines = {line.strip() for line in chunk if len(line.strip()) > 3}
        # Of two chunks with that many lines in common, these have one in common, and few other chunks have it.
        rare = sorted(lines, key=lambda line: (frequency[line], line))[: max(len(lines) - _REPEATED + 1, 0)]
        if any(len(lines & earlier) >= _REPEATED for line in rare for earlier in seen.get(line, ())):
            continue
        kept.setdefault(module, []).append(chunk)
        for line in lines:
            seen.setdefault(line, []).append(lines)
    return kept
