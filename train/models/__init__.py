"""Models that several runs start from, made once and kept, and what is built on a language model.

    base = models.kept({"what": "my encoder", "seed": 0}, make, init)   # a `Deferred`: shapes now, arrays when needed
    Task(objective, train=..., test=..., resident=base)                 # every batch is a Resident(batch, arrays)

`make` runs once for all processes, arms and seeds that ask for the same spec; whoever asks later reads what it gave.
`trained` does so with what `fit` ends with. `language` is the byte-level language model, `generation` writes with one.
"""

from .store import digest, kept, trained

__all__ = ["digest", "kept", "trained"]
