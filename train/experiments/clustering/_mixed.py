"""Rows with continuous and categorical columns: what a clustering method is given, and the door that they come by."""

from typing import NamedTuple

import numpy as np


class Mixed(NamedTuple):
    """Rows of mixed type, and how many clusters to find in them. Either type may have no column.

    Attributes:
        continuous: `[n, p]` float64, scaled to mean 0 and variance 1.
        categorical: `[n, q]` int64, codes from 0.
        num_categories: levels of each categorical column.
        ordinal: indices of the categorical columns whose levels are ordered.
        num_clusters: how many there are.
    """

    continuous: np.ndarray
    categorical: np.ndarray
    num_categories: tuple[int, ...]
    ordinal: tuple[int, ...]
    num_clusters: int


class Labelled(NamedTuple):
    """A data set: its rows, and the true clusters, which no method sees."""

    rows: Mixed
    labels: np.ndarray  # [n] int


def check_mixed(rows: Mixed) -> Mixed:
    """The rows with float64 and int64 columns, once they are what `Mixed` says.

    Raises:
        ValueError: no row or column, shapes that do not fit, a value that is not finite, a code that is no level,
            ordinal columns that are none, or more clusters than rows. Values are named by column and row.

    Example:
        >>> x = np.array([[0.0], [np.nan]])
        >>> check_mixed(Mixed(x, np.zeros((2, 0), int), (), (), 2))
        Traceback (most recent call last):
        ValueError: continuous must be finite, got nan in column 0, row 1.
    """
    continuous, categorical = (np.asarray(x) for x in (rows.continuous, rows.categorical))
    for name, array in (("continuous", continuous), ("categorical", categorical)):
        if array.ndim != 2:
            raise ValueError(f"{name} must have shape [rows, columns], got shape {list(array.shape)}.")
    n, columns = len(continuous), continuous.shape[1] + categorical.shape[1]
    if len(categorical) != n:
        raise ValueError(f"categorical must have {n} rows as continuous, got {len(categorical)}.")
    if n == 0 or columns == 0:
        raise ValueError(f"continuous and categorical must have at least one row and one column, got [{n}, {columns}].")
    if not (np.issubdtype(categorical.dtype, np.integer) or categorical.size == 0):
        raise ValueError(f"categorical must hold integer codes of levels, got {categorical.dtype}.")
    continuous, categorical = continuous.astype(float), categorical.astype(int)
    _refuse("continuous must be finite", continuous, ~np.isfinite(continuous))

    levels, q = tuple(int(count) for count in rows.num_categories), categorical.shape[1]
    if len(levels) != q or min(levels, default=1) < 1:
        raise ValueError(
            f"num_categories must have a positive number for each of {q} categorical columns, got {levels}."
        )
    _refuse(
        f"categorical must hold codes from 0, below {levels}", categorical, (categorical < 0) | (categorical >= levels)
    )
    if not set(rows.ordinal) <= set(range(q)):
        raise ValueError(f"ordinal must hold indices of the {q} categorical columns, got {tuple(rows.ordinal)}.")
    if not (isinstance(rows.num_clusters, int | np.integer) and 1 <= rows.num_clusters <= n):
        raise ValueError(f"num_clusters must be an integer from 1 to the number of rows, {n}, got {rows.num_clusters}.")
    return rows._replace(continuous=continuous, categorical=categorical, num_categories=levels)


def _refuse(expected: str, values: np.ndarray, bad: np.ndarray) -> None:
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(f"{expected}, got {values[row, column]} in column {column}, row {row}.")


def checked(rows: Mixed, restarts: int) -> Mixed:
    """The rows as `check_mixed` gives them; every method's first line.

    Raises:
        ValueError: no restart, or as `check_mixed`.
    """
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, got {restarts}.")
    return check_mixed(rows)


def varying(columns: np.ndarray) -> np.ndarray:
    """Which of the columns `[n, p]` are not constant: bool `[p]`."""
    return (columns != columns[:1]).any(axis=0)


def make_mixed(
    continuous: np.ndarray,
    categorical: np.ndarray,
    num_categories: tuple[int, ...],
    *,
    labels: np.ndarray,
    ordinal: tuple[int, ...] = (),
) -> Labelled:
    """A data set from its columns: the continuous ones are scaled to mean 0 and variance 1; a constant one becomes 0.

    Args:
        continuous: `[n, p]` numbers.
        categorical: `[n, q]` int, codes from 0.
        num_categories: levels of each categorical column.
        labels: `[n]` int, the true clusters; there are as many clusters as different labels.
        ordinal: indices of the categorical columns whose levels are ordered.

    Raises:
        ValueError: labels of another shape, or as `check_mixed`.
    """
    labels = np.asarray(labels)
    if labels.shape != np.shape(continuous)[:1]:
        n = list(np.shape(continuous)[:1])
        raise ValueError(f"labels must have shape {n}, one a row, got shape {list(labels.shape)}.")
    clusters = len(np.unique(labels))
    rows = check_mixed(Mixed(continuous, categorical, tuple(num_categories), tuple(ordinal), clusters))
    varies = varying(rows.continuous)
    largest = np.abs(rows.continuous).max(axis=0, initial=0.0)
    columns = rows.continuous / np.where(largest > 0, largest, 1.0)  # whose squares neither overflow nor vanish
    centred = columns - columns.mean(axis=0)
    spread = np.sqrt(np.square(centred).sum(axis=0) / max(len(centred) - 1, 1))
    scaled = np.where(varies, centred / np.where(varies, spread, 1.0), 0.0)
    return Labelled(rows._replace(continuous=scaled), labels)
