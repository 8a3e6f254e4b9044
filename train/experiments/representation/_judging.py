"""What frozen embeddings are worth, on the host: neighbours, a probe, prototypes of novel classes, rank."""

import numpy as np

NEIGHBOURS = 5
TINY = 1e-12

Rows = dict[str, np.ndarray]  # embedding [n, d] float, label [n] int, old [n] bool: of a class that was trained on


def measure(
    held_out: Rows, train: Rows, *, novel: bool, shots: int = 5, queries: int = 15, episodes: int = 200
) -> dict[str, float]:
    """All metrics of one seed.

    Args:
        held_out: examples of all classes.
        train: those that were trained on.
        novel: whether there are novel classes.
        shots: labelled examples of a novel class.
        queries: of a novel class, in an episode.
        episodes: draws of shots and queries, the same for every embedding.
    """
    old = held_out["old"]
    seen, label = held_out["embedding"][old], held_out["label"][old]
    found = {
        "knn": float(np.mean(nearest_labels(train["embedding"], train["label"], seen) == label)),
        "probe": probe_accuracy(train["embedding"], train["label"], seen, label),
        "effective_rank": effective_rank(held_out["embedding"]),
    }
    if novel:
        fresh, fresh_label = held_out["embedding"][~old], held_out["label"][~old]
        old_prototypes, old_names = prototypes(train["embedding"], train["label"])
        draws = [draw(np.random.default_rng(index), fresh_label, shots, queries) for index in range(episodes)]
        scores = [episode(fresh, fresh_label, *drawn, old_prototypes, old_names, seen, label) for drawn in draws]
        alone, joint = np.mean(scores, axis=0)
        found |= {"novel": float(alone), "joint": float(joint)}
    return found


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; one of length 0 stays."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), TINY)


def nearest_labels(x: np.ndarray, label: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The commonest label of the nearest neighbours by cosine; of several, the lowest."""
    count = min(NEIGHBOURS, len(x))
    near = np.argpartition(-(unit(rows) @ unit(x).T), count - 1, axis=1)[:, :count]
    votes = np.zeros((len(rows), int(label.max()) + 1), int)
    np.add.at(votes, (np.arange(len(rows))[:, None], label[near]), 1)
    return votes.argmax(axis=1)


def probe_accuracy(x: np.ndarray, label: np.ndarray, rows: np.ndarray, expected: np.ndarray) -> float:
    """Ridge classification on standardised embeddings, its penalty by leave-one-out on the training examples."""
    from sklearn.linear_model import RidgeClassifierCV

    x, rows = np.asarray(x, np.float64), np.asarray(rows, np.float64)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    scale = np.where(deviation > TINY, deviation, 1.0)
    model = RidgeClassifierCV(alphas=np.logspace(-2, 4, 7)).fit((x - mean) / scale, label)
    return float(model.score((rows - mean) / scale, expected))


def prototypes(x: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The unit mean of the unit rows of each class, and its label."""
    names = np.unique(label)
    rows = unit(x)
    return unit(np.stack([rows[label == name].mean(axis=0) for name in names])), names


def draw(rng: np.random.Generator, label: np.ndarray, shots: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of shots and of queries, the same number of each class and none in both."""
    chosen = [rng.permutation(np.flatnonzero(label == name))[: shots + queries] for name in np.unique(label)]
    return np.concatenate([rows[:shots] for rows in chosen]), np.concatenate([rows[shots:] for rows in chosen])


def episode(x, label, support, query, old_prototypes, old_names, old_x, old_label) -> tuple[float, float]:
    """Accuracy with novel classes as candidates; and with all of them, the harmonic mean over old and novel rows."""
    own, names = prototypes(x[support], label[support])
    alone = np.mean(names[np.argmax(unit(x[query]) @ own.T, axis=1)] == label[query])
    every, every_name = np.concatenate([old_prototypes, own]), np.concatenate([old_names, names])
    on_novel, on_old = (
        np.mean(every_name[np.argmax(unit(rows) @ every.T, axis=1)] == expected)
        for rows, expected in ((x[query], label[query]), (old_x, old_label))
    )
    total = on_novel + on_old
    return float(alone), float(2 * on_novel * on_old / total) if total else 0.0


def effective_rank(x: np.ndarray) -> float:
    """Exp of the entropy of the variances along principal axes (Roy and Vetterli 2007); 0 where nothing varies."""
    x = np.asarray(x, np.float64)
    centred = x - x.mean(axis=0)
    variances = np.maximum(np.linalg.eigvalsh(centred.T @ centred), 0.0)
    rounding = np.square(np.finfo(np.float32).eps * np.abs(x).max(initial=0.0)) * x.size  # embeddings are float32
    if variances.sum() <= rounding:
        return 0.0
    shares = variances[variances > 0] / variances.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))
