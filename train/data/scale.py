"""Standardising by the training split."""

import numpy as np


def standardize(train: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """Inputs with mean 0 and standard deviation 1 over the training split: that split, and others in its units.

    Of images each channel is standardised, of rows each feature. What is constant over the training split becomes 0 in
    all of them.

    Args:
        train: `[n, h, w, c]` or `[n, d]`, of numbers, n at least 1; any `[n, ..., c]` is treated like images.
        *others: further splits, `[m, ...]` with the same trailing axes.

    Returns:
        As many arrays as came, float32, of their shapes.

    Raises:
        ValueError: no numbers, no rows to learn from, fewer than two axes, or trailing axes that differ.

    Example:
        >>> standardize(np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[4.0, 7.0]]))[1]
        array([[2., 0.]], dtype=float32)
    """
    arrays = [np.asarray(split) for split in (train, *others)]
    for array in arrays:
        if array.dtype.kind not in "biuf":
            raise ValueError(f"inputs must be numbers, got {array.dtype}.")
        if array.ndim < 2 or array.shape[1:] != arrays[0].shape[1:]:
            shapes = ", ".join(str(list(array.shape)) for array in arrays)
            raise ValueError(f"inputs must be [n, d] or [n, h, w, c], alike but for n in all splits, got {shapes}.")
    if not len(arrays[0]):
        raise ValueError(f"train must have at least one example, got shape {list(arrays[0].shape)}.")
    inputs = [np.asarray(array, np.float32) for array in arrays]
    axes = tuple(range(inputs[0].ndim - 1))
    with np.errstate(over="ignore", invalid="ignore"):  # seen to below
        mean, deviation = inputs[0].mean(axes), inputs[0].std(axes)
    varies = inputs[0].min(axes) < inputs[0].max(axes)
    lost = ~np.isfinite(deviation) | (varies & (deviation == 0))  # squares that float32 cannot hold
    if lost.any():
        wide = inputs[0].astype(np.float64)
        mean, deviation = np.where(lost, wide.mean(axes), mean), np.where(lost, wide.std(axes), deviation)
    scale = np.where(varies & (deviation > 0), deviation, 1.0).astype(mean.dtype)
    return tuple(np.where(varies, (x - mean) / scale, 0.0).astype(np.float32) for x in inputs)
