"""Prompts and answers as arrays: pairs made from a text, and rows of feedback on single answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import data
from ...engine.settings import check_seed, check_whole
from ...engine.types import ConfigDict

LABELS = (("False", "True"), ("false", "true"), ("0", "1"))  # what needs no word on which of the two is desirable


def rows_of(settings: ConfigDict, split: str, *, most: int = 0) -> dict[str, np.ndarray]:
    """The rows of a split of what a `data` section names.

    Args:
        settings: a text, of which pairs are made; or a file with `columns` prompt, completion and label.
        split: as for `data.load`.
        most: take that many, evenly spaced, of a split that has more; 0 takes all.

    Returns:
        As `paired` or `unpaired`.

    Raises:
        ValueError: what these and `data.load` raise, a file without one of those columns, or labels of which it is not
            said which is desirable.
    """
    check_whole("data.test_rows", most, 0)
    sizes: dict[str, int] = dict(prompt=settings.prompt, answer=settings.answer)
    if not settings.columns:
        if settings.desirable:
            raise ValueError(
                f"data.desirable is a label of a file, and data.columns names none; got {settings.desirable!r}."
            )
        return paired(settings.name, split, **sizes, seed=settings.seed, most=most)
    columns: dict[str, Any] = dict(columns=settings.columns)
    missing = [role for role in ("prompt", "completion", "label") if not settings.columns.get(role)]
    if missing:
        raise ValueError(f"data.columns.{missing[0]} must name a column of {settings.name}.")
    classes = data.info(settings.name, **columns).class_names or ()
    good = settings.desirable or next((pair[1] for pair in LABELS if pair == classes), "")
    if good not in classes or len(classes) != 2:
        raise ValueError(
            f"data.desirable must be one of the two labels of {settings.name}, {', '.join(classes)}; got {good!r}."
        )
    found = data.load(settings.name, split, **columns)
    prompts, completions, labels = (_spaced(found[name], most) for name in ("prompt", "completion", "label"))
    return unpaired(list(prompts), list(completions), [label == classes.index(good) for label in labels], **sizes)


def paired(name: str, split: str, *, prompt: int, answer: int, seed: int, most: int = 0) -> dict[str, np.ndarray]:
    """Prompts of a text with the answer that follows and the same bytes shuffled.

    Args:
        name: as for `data.windows`.
        split: as for `data.windows`.
        prompt: bytes a prompt.
        answer: bytes an answer.
        seed: of the shuffles.
        most: take that many, evenly spaced, of a split that has more; 0 takes all.

    Returns:
        "prompt", "good", "bad": uint8 `[n, prompt or answer]`.

    Raises:
        ValueError: a size or a seed outside its range, and what `data.windows` raises.
    """
    _check_sizes(prompt, answer)
    check_seed("data.seed", seed)
    tokens = _spaced(data.windows(name, split, prompt + answer)["tokens"], most)
    good = tokens[:, prompt:]
    return {"prompt": tokens[:, :prompt], "good": good, "bad": np.random.default_rng(seed).permuted(good, axis=1)}


def unpaired(
    prompts: Sequence[bytes],
    completions: Sequence[bytes],
    desirable: Sequence[bool] | np.ndarray,
    *,
    prompt: int,
    answer: int,
) -> dict[str, np.ndarray]:
    """Rows of a prompt, an answer to it, and whether that is desirable.

    A prompt follows the byte that separates documents, keeps its last bytes where it is too long, and is padded on the
    left. An answer ends with that byte, keeps its first bytes where it is too long, and is padded on the right.

    Args:
        prompts: `[n]` texts.
        completions: `[n]` texts.
        desirable: `[n]` bool; both kinds are there.
        prompt: bytes a prompt.
        answer: bytes an answer.

    Returns:
        "prompt" and "answer": uint8 `[n, prompt or answer]`; "prompt_where" and "answer_where": bool, alike, True: the
        byte counts; "desirable": bool `[n]`.

    Raises:
        ValueError: lists of different lengths, a text with a byte 0, or answers of one kind alone.
    """
    _check_sizes(prompt, answer)
    if not len(prompts) == len(completions) == len(desirable):
        counts = f"{len(prompts)}, {len(completions)}, {len(desirable)}"
        raise ValueError(f"prompts, completions and labels must be as many, got {counts}.")
    labels = np.asarray(desirable, bool)
    if labels.all() or not labels.any():
        raise ValueError(f"label must mark some answers, not all, as desirable; got {labels.sum()} of {len(labels)}.")
    for name, texts in (("prompt", prompts), ("completion", completions)):
        row = next((row for row, text in enumerate(texts) if data.SEPARATOR in text), None)
        if row is not None:
            raise ValueError(f"{name} must be text without the byte 0, which separates documents; row {row} has it.")
    end = bytes([data.SEPARATOR])
    before = [(end + text)[-prompt:] for text in prompts]
    after = [(text + end)[:answer] for text in completions]
    prompt_rows, prompt_where = _padded(before, prompt, left=True)
    answer_rows, answer_where = _padded(after, answer, left=False)
    return {
        "prompt": prompt_rows,
        "prompt_where": prompt_where,
        "answer": answer_rows,
        "answer_where": answer_where,
        "desirable": labels,
    }


def _check_sizes(prompt: int, answer: int) -> None:
    for name, size in (("data.prompt", prompt), ("data.answer", answer)):
        check_whole(name, size, 1)


def _spaced(rows: np.ndarray, most: int) -> np.ndarray:
    return rows[np.linspace(0, len(rows) - 1, most).astype(int)] if 0 < most < len(rows) else rows


def _padded(texts: Sequence[bytes], size: int, *, left: bool) -> tuple[np.ndarray, np.ndarray]:
    rows, where = np.zeros((len(texts), size), np.uint8), np.zeros((len(texts), size), bool)
    for index, text in enumerate(texts):
        place = slice(size - len(text), size) if left else slice(len(text))
        rows[index, place], where[index, place] = np.frombuffer(text, np.uint8), True
    return rows, where
