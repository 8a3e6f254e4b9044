"""Dealing the examples of a data set to the clients of a federation, on the host and by a seed."""

from typing import Any, NamedTuple

import numpy as np

from ... import data
from ...engine.settings import check_seed
from ...engine.types import ConfigDict

SPLITS = ("dirichlet", "iid")


def dirichlet_split(
    labels: np.ndarray, *, clients: int, concentration: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Deal examples to clients with label skew: of each class, the clients get Dirichlet(concentration) shares.

    As Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification"
    (arXiv:1909.06335) have it, but with shares drawn class by class, so that clients differ in size too.

    Args:
        labels: `[n]` int.
        clients: at least 1.
        concentration: positive and finite; small values leave a client few classes, large ones an even part of all.
        rng: draws the order within each class, then its shares.

    Returns:
        One array of row numbers a client; together each row once. A client may get none.

    Raises:
        ValueError: clients < 1, a concentration outside its range, or no example.
    """
    _check_deal(labels, clients)
    if not 0 < concentration < np.inf:
        raise ValueError(f"data.concentration must be positive and finite, got {concentration}.")
    parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(clients, concentration))
        ends = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(int)
        for part, own in zip(parts, np.split(rows, ends), strict=True):
            part.append(own)
    return [np.sort(np.concatenate(part)) for part in parts]


def iid_split(labels: np.ndarray, *, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal examples to clients at random, in parts whose sizes differ by 1 at most; arguments as `dirichlet_split`."""
    _check_deal(labels, clients)
    return [np.sort(part) for part in np.array_split(rng.permutation(len(labels)), clients)]


def _check_deal(labels: np.ndarray, clients: int) -> None:
    if clients < 1:
        raise ValueError(f"data.clients must be at least 1, got {clients}.")
    if len(labels) == 0:
        raise ValueError("labels must hold at least one example, got none.")


class Dealt(NamedTuple):
    """What federated rounds and evaluations read: both splits whole, and who has which rows of the training one."""

    train: dict[str, Any]  # inputs [n, d], label [n]
    test: dict[str, Any]
    rows: Any  # [partitions, clients, most], of `deals`
    counts: Any  # [partitions, clients]


def deals(labels: np.ndarray, settings: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """Several deals of one data set, as arrays that a program can index.

    Args:
        labels: `[n]` int.
        settings: `split` ("dirichlet" or "iid"), `clients`, `concentration`, `partitions` (how many deals) and
            `partition_seed`, which sets them all.

    Returns:
        Rows `[partitions, clients, most]` int32, each client's own first and then filled up with 0, and how many are
        its own, `[partitions, clients]` int32.

    Raises:
        ValueError: a setting outside its range.
    """
    if settings.split not in SPLITS:
        raise ValueError(f"data.split must be one of {SPLITS}, got {settings.split!r}.")
    if settings.partitions < 1:
        raise ValueError(f"data.partitions must be at least 1, got {settings.partitions}.")
    check_seed("data.partition_seed", settings.partition_seed)
    found = []
    for index in range(settings.partitions):
        rng = np.random.default_rng((settings.partition_seed, index))
        if settings.split == "iid":
            found.append(iid_split(labels, clients=settings.clients, rng=rng))
        else:
            concentration = settings.concentration
            found.append(dirichlet_split(labels, clients=settings.clients, concentration=concentration, rng=rng))
    counts = np.array([[len(part) for part in parts] for parts in found], np.int32)
    rows = np.zeros((*counts.shape, counts.max()), np.int32)
    for i, parts in enumerate(found):
        for j, part in enumerate(parts):
            rows[i, j, : len(part)] = part
    return rows, counts


def load_flat(name: str, split: str) -> dict[str, np.ndarray]:
    """A split as {"inputs": float32 `[n, d]`, "label": int32 `[n]`}; images are flattened, in the scale they come in.

    Raises:
        ValueError: the data set has no classes, or neither images nor rows of features.
    """
    found = data.info(name)
    key = next((key for key in ("image", "features") if key in found.features), None)
    if found.num_classes is None or key is None:
        held = ", ".join(found.features)
        raise ValueError(f"data.name must be a set with a class label and images or features; {name!r} has {held}.")
    examples = data.load(name, split)
    inputs = np.asarray(examples[key], np.float32)
    return {"inputs": inputs.reshape(len(inputs), -1), "label": examples["label"]}
