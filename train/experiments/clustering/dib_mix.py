"""DIBmix: the deterministic information bottleneck on a kernel of mixed columns."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ....methods.clustering import dib_mix as method
from . import Mixed
from ._mixed import checked, varying


def dib_mix(
    rows: Mixed,
    restarts: int,
    seed: int,
    *,
    ordered: bool = True,
    categorical_first: bool = False,
    nominal_kernel: str = "aitchison_aitken",
) -> np.ndarray:
    """DIBmix with the bandwidths that its rules choose, on the columns with more than one level.

    Args:
        rows: the rows.
        restarts: starts.
        seed: of the starts.
        ordered: ordinal columns count as such; False: as nominal.
        categorical_first: the rule that chooses the categorical bandwidths before the continuous one.
        nominal_kernel: "aitchison_aitken" or "li_racine".
    """
    rows = checked(rows, restarts)
    shown = np.flatnonzero(varying(rows.categorical))
    continuous = jnp.asarray(rows.continuous, jnp.float32) if rows.continuous.size else None
    categorical = jnp.asarray(rows.categorical[:, shown], jnp.int32) if shown.size else None
    columns: dict[str, Any] = dict(
        num_categories=[rows.num_categories[j] for j in shown],
        nominal_kernel=nominal_kernel,
        ordinal=[place for place, j in enumerate(shown) if j in rows.ordinal] if ordered else (),
    )
    s, lambdas = method.select_bandwidths(continuous, categorical, categorical_first=categorical_first, **columns)
    conditional = method.mixed_conditional(continuous, categorical, s, lambdas, **columns)
    found = method.dib_mix(conditional, key=jax.random.key(seed), num_clusters=rows.num_clusters, num_restarts=restarts)
    return np.asarray(found.assignments)
