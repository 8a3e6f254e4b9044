"""DIBmix in float64 NumPy, one start at a time, straight from the equations: for tests and for the benchmark."""

import numpy as np


def conditional(x, z, s, lambdas, levels):
    """p(y|x), gaussian and Aitchison-Aitken factors; one vectorised pass over all pairs a column."""
    log_k = np.zeros((len(x), len(x)))
    for column in np.asarray(x, np.float64).T:
        log_k -= np.square((column[:, None] - column) / s) / 2
    for column, lam, count in zip(np.asarray(z).T, lambdas, levels, strict=True):
        log_k += np.where(column[:, None] == column, np.log(1 - lam), np.log(lam / (count - 1)))
    k = np.exp(log_k)
    return k / k.sum(axis=1, keepdims=True)


def entropies(p):
    """sum_y p log p of every row."""
    return np.sum(p * np.log(np.where(p > 0, p, 1)), axis=1)


def divergences(p, negentropy, labels, num_clusters):
    """Sizes `[k]` and KL_xt `[n, k]` over y where both p(y|x) and q(y|t) are positive."""
    members = np.eye(num_clusters)[labels]
    sizes = members.sum(axis=0)
    q = p.T @ members / np.maximum(sizes, 1)
    kl = negentropy[:, None] - p @ np.log(np.where(q > 0, q, 1))
    if np.any(q == 0):
        terms = p * np.log(np.where(p > 0, p, 1))
        kl -= terms @ (q == 0)
    return sizes, kl


def step(p, negentropy, labels, num_clusters):
    """New labels, beta, whether a cluster was rescued."""
    n = len(p)
    sizes, kl = divergences(p, negentropy, labels, num_clusters)
    with np.errstate(divide="ignore"):
        log_q = np.log(sizes / n)
    occupied = np.flatnonzero(sizes)
    smallest = occupied[sizes[occupied].argmin()]
    rows = labels == smallest
    gap = kl[rows, smallest][:, None] - kl[rows][:, occupied]
    ratio = (log_q[smallest] - log_q[occupied]) / np.where(gap == 0, 1e-10, gap)
    beta = max(1.0, ratio.max() + 1e-3)
    scores = log_q - beta * kl
    new = scores.argmax(axis=1)
    rescued = False
    for t in range(num_clusters):
        size = np.bincount(new, minlength=num_clusters)
        if size[t] == 0:
            rescued = True
            candidates = np.flatnonzero(size[new] > 1)
            new[candidates[scores[candidates, t].argmax()]] = t
    return new, beta, rescued


def information(p, labels, num_clusters):
    """I(T;Y) and H(T), nats, as differences of entropies."""
    share = np.bincount(labels, minlength=num_clusters) / len(p)
    q = p.T @ np.eye(num_clusters)[labels] / np.maximum(share * len(p), 1)

    def entropy(x, axis=0):
        return -np.sum(x * np.log(np.where(x > 0, x, 1)), axis=axis)

    return entropy(p.mean(axis=0)) - share @ entropy(q), entropy(share)


def dib(p, labels, num_clusters, max_iterations=100):
    """Labels, steps taken, whether any cluster was rescued."""
    negentropy, steps, ever, moved = entropies(p), 0, False, True
    while moved and steps < max_iterations:
        new, _, rescued = step(p, negentropy, labels, num_clusters)
        moved, labels, steps, ever = (new != labels).any(), new, steps + 1, ever | rescued
    return labels, steps, ever


def dib_mix(p, starts, num_clusters, max_iterations=100):
    """The labels with the most information of all starts, those without rescue first."""
    runs = []
    for start in starts:
        labels, _, rescued = dib(p, start, num_clusters, max_iterations)
        runs.append((not rescued, information(p, labels, num_clusters)[0], labels))
    return max(runs, key=lambda run: run[:2])[2]
