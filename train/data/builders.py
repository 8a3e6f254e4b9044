"""The bundled sets as TFDS builders. Their names start with `lemmata_`, so none can be taken for one of TFDS's own.

They are not registered: registering makes reloading this module an error, and nothing looks them up by name.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered

from . import bundled


class _Bundled(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version(bundled.VERSION)
    # Beside the code TFDS looks for checksums of downloads, with a package that it does not declare. Here are none.
    code_path = None
    source: str  # the name without the prefix


class _Table(_Bundled, skip_registration=True):
    """Rows of a table of scikit-learn."""

    def _info(self) -> tfds.core.DatasetInfo:
        classes, row = bundled.class_names(self.source), bundled.table(self.source)["train"]
        features: dict[str, Any] = {
            key: tfds.features.Tensor(shape=values.shape[1:], dtype=values.dtype) for key, values in row.items()
        }
        if classes is not None:
            features["label"] = tfds.features.ClassLabel(names=classes)
        return tfds.core.DatasetInfo(
            builder=self,
            description=bundled.TABLES[self.source],
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # the order on disk is the documented one
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(columns) for split, columns in bundled.table(self.source).items()}

    def _generate_examples(self, columns: dict[str, np.ndarray]) -> Iterator[tuple[int, dict[str, Any]]]:
        for row in range(len(next(iter(columns.values())))):
            yield row, {key: values[row] for key, values in columns.items()}


class _Documents(_Bundled, skip_registration=True):
    """Documents as bytes. What Python installs differs between its versions, so each has a configuration of its own."""

    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=bundled.INTERPRETER)]  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=bundled.DOCUMENTS[self.source],
            features=tfds.features.FeaturesDict({"name": tfds.features.Text(), "text": tfds.features.Text()}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(texts) for split, texts in bundled.documents(self.source).items()}

    def _generate_examples(self, texts: dict[str, bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (name, text) in enumerate(texts.items()):
            yield index, {"name": name, "text": text}


class _Chunks(_Documents, skip_registration=True):
    """Pieces of documents, each with a class."""

    def _info(self) -> tfds.core.DatasetInfo:
        self._splits, names = bundled.modules()
        label = tfds.features.ClassLabel(names=names)
        return tfds.core.DatasetInfo(
            builder=self,
            description=bundled.CHUNKS[self.source],
            features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "label": label}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_rows(columns) for split, columns in self._splits.items()}

    def _generate_rows(self, columns: dict[str, np.ndarray]) -> Iterator[tuple[int, dict[str, Any]]]:
        for row, (text, label) in enumerate(zip(columns["text"], columns["label"], strict=True)):
            yield row, {"text": text, "label": label}


def builder(bundled_name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder that writes a bundled set.

    Args:
        bundled_name: a key of `bundled.TABLES`, `bundled.DOCUMENTS` or `bundled.CHUNKS`.
        data_dir: the folder under which it writes `bundled.location(bundled_name)`.
    """
    base: Any = (
        _Table if bundled_name in bundled.TABLES else _Documents if bundled_name in bundled.DOCUMENTS else _Chunks
    )

    with registered.skip_registration():

        class Builder(base):  # TFDS takes the name from the class, not from the instance
            name = f"lemmata_{bundled_name}"
            source = bundled_name

    return Builder(data_dir=data_dir, file_format="array_record")
