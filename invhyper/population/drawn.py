"""What the figures of a fitted population show, kept apart from its functions: a report can hold it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class Seen(NamedTuple):
    """What was measured: `times`, `values` and `mask` (N, T), `names` of the subjects."""

    times: Float[np.ndarray, "N T"]
    values: Float[np.ndarray, "N T"]
    mask: Bool[np.ndarray, "N T"]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Drawn:
    """A fitted population for `plots`: as `PopulationFit.drawn` made it, or `Drawn.of` the findings of a report.

    `subjects`: what was measured; `individual`, `typical`: predictions of each subject; `grid` (T,) and the curves
    `own` and `usual` (N, T) there; `simulated` (replicates, n); `eta` (N, d) and `omega` (d, d).
    """

    subjects: Seen
    individual: list[np.ndarray]
    typical: list[np.ndarray]
    grid: np.ndarray
    own: np.ndarray
    usual: np.ndarray
    simulated: np.ndarray
    eta: np.ndarray
    omega: np.ndarray

    def curves(self, times) -> tuple[np.ndarray, np.ndarray]:
        """The curves at other times within the grid, by linear interpolation."""
        return tuple(np.array([np.interp(times, self.grid, row) for row in rows]) for rows in (self.own, self.usual))

    def simulate(self, replicates: int, seed: int = 0) -> np.ndarray:
        """The first of the simulated populations that were kept."""
        return self.simulated[:replicates]

    def findings(self) -> dict:
        """As a `Report` keeps it in its `findings`."""
        arrays = {name: getattr(self, name) for name in ("grid", "own", "usual", "simulated", "eta", "omega")}
        rows = {name: np.concatenate(getattr(self, name)) for name in ("individual", "typical")}
        return {**self.subjects._asdict(), "names": list(self.subjects.names), **rows, **arrays}

    @staticmethod
    def of(findings: dict) -> "Drawn":
        """What `findings` was made from, for the figures of a report that was loaded."""
        mask = np.asarray(findings["mask"], bool)
        ends = np.cumsum(mask.sum(axis=1))[:-1]
        seen = Seen(findings["times"], findings["values"], mask, tuple(findings["names"]))
        rows = {name: np.split(findings[name], ends) for name in ("individual", "typical")}
        names = ("grid", "own", "usual", "simulated", "eta", "omega")
        return Drawn(seen, **rows, **{name: findings[name] for name in names})
