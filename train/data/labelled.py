"""Labelled examples: images or rows of features with a class each, by the names that a config has for their splits."""

from typing import Any, NamedTuple

import numpy as np

from ..engine.arrays import check
from ..engine.types import ConfigDict
from .scale import standardize

INPUTS = ("inputs", "image", "features")  # what a data set may call them
SCALES = ("standard", "none")


class Labelled(NamedTuple):
    """The splits of a set, each {"inputs": float32 `[n, ...]`, "label": int32 `[n]`, "index": int32 `[n]`}.

    Attributes:
        train: what is learned from; every class has an example.
        validation: what settings are chosen by; None unless held-out metrics are of it.
        test: read at the end.
        num_classes: how many there are.
        shape: of an example.
    """

    train: dict[str, np.ndarray]
    validation: dict[str, np.ndarray] | None
    test: dict[str, np.ndarray]
    num_classes: int
    shape: tuple[int, ...]


def defaults() -> ConfigDict:
    """The `data` section of a family of labelled examples."""
    return ConfigDict(dict(
        name="digits",  # a bundled set, a prepared TFDS name with a label, or a file: .npz, .csv, .parquet, .jsonl
        options={},  # of the set, such as the canvas of "placed_digits"
        columns={},  # of a file: which columns are inputs and label
        scale="standard",  # mean 0 and variance 1 over the training split, by channel or feature; or "none"
        train="train+validation",  # the splits: what is trained on,
        validation="validation",  # what train.eval_split = "validation" looks at; then train is to be "train",
        test="test",  # and what is tested on
    ))  # fmt: skip


def load(settings: ConfigDict, *, eval_split: str = "test") -> Labelled:
    """The examples that a `data` section names.

    Args:
        settings: as `defaults`.
        eval_split: "test" or "validation", which held-out metrics are of.

    Raises:
        ValueError: the data set has no classes, or neither images nor rows of features; labels that are no classes, or
            a class without a training example; held-out metrics on rows that are trained on.
    """
    from . import info as info_of
    from . import load as load_split

    if settings.scale not in SCALES:
        raise ValueError(f"data.scale must be one of {SCALES}, got {settings.scale!r}.")
    if eval_split == "validation" and settings.validation in settings.train.split("+"):
        raise ValueError(
            f"data.train = {settings.train!r} holds the rows of data.validation = {settings.validation!r}, which "
            'train.eval_split = "validation" is to be measured on; make data.train "train".'
        )
    given: dict[str, Any] = dict(settings.options)
    if settings.columns:
        given["columns"] = settings.columns.to_dict()
    found = info_of(settings.name, **given)
    key = next((key for key in INPUTS if key in found.features), None)
    if found.num_classes is None or key is None:
        raise ValueError(
            f"data.name must be a set with a class label and one of {INPUTS}; {settings.name!r} has "
            f"{', '.join(found.features)}."
        )
    names = [settings.train, settings.test] + [settings.validation] * (eval_split == "validation")
    splits = [load_split(settings.name, name, **given) for name in names]
    check(splits[0], num_classes={"label": found.num_classes}, every_class=True)
    inputs = [np.asarray(split[key], np.float32) for split in splits]
    if settings.scale == "standard":
        inputs = standardize(*inputs)
    train, test, *validation = (
        {"inputs": x, "label": split["label"], "index": np.arange(len(x), dtype=np.int32)}
        for x, split in zip(inputs, splits, strict=True)
    )
    return Labelled(train, validation[0] if validation else None, test, found.num_classes, inputs[0].shape[1:])
