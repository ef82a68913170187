"""What a fitted population says: estimates with standard errors, random effects, shrinkage, predictions."""

import io
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PyTree
from rich import box
from rich.console import Console
from rich.table import Table

from invhyper import tree
from invhyper.criteria.likelihood import FOCEI, LOG_TWO_PI, Method
from invhyper.parameters import Parameters
from invhyper.population.drawn import Drawn, Seen
from invhyper.problem import Evaluation, solve
from invhyper.report import Report


@dataclass(frozen=True)
class PopulationFit:
    """A fitted population; see `MixedEffects.fit`.

    `theta`; `value`: -2 log L without n log 2 pi, `log_likelihood` with it; `standard_errors`: a tree like theta, zero
    for entries that were held, NaN where the likelihood has no strict maximum; `covariance` (p, p) of the estimates on
    the search scale, whose entries `names` lists; `eta` (N, d): the most probable random effects of each subject
    (empirical Bayes estimates); `eta_shrinkage` (d,): 1 - sd(eta) / sqrt(omega_kk); `epsilon_shrinkage`:
    1 - sd((y - f) / sqrt(V)); `individual`, `typical`: predictions of each subject with its eta and with eta = 0;
    `weighted_residuals`: (y - f) / sqrt(V); `failed`: {subject left out: why}; `evaluations` of likelihood and
    gradient; `seconds`: {"compile", "run"}; `message`: how the search ended; `report`: of `tune`; `population`.
    """

    theta: PyTree
    value: float
    standard_errors: PyTree
    covariance: Float[np.ndarray, "p p"] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    eta: Float[np.ndarray, "N d"] = field(repr=False)
    eta_shrinkage: Float[np.ndarray, " d"]
    epsilon_shrinkage: float
    individual: list[np.ndarray] = field(repr=False)
    typical: list[np.ndarray] = field(repr=False)
    weighted_residuals: list[np.ndarray] = field(repr=False)
    failed: dict[str, str]
    evaluations: int
    seconds: dict[str, float]
    message: str
    method: Method
    population: Any = field(repr=False)
    report: Report = field(repr=False)

    @property
    def log_likelihood(self) -> float:
        """log L, with its constant."""
        return -0.5 * (self.value + LOG_TWO_PI * self.population.subjects.measurements)

    @property
    def aic(self) -> float:
        """-2 log L + 2 p"""
        return -2 * self.log_likelihood + 2 * len(self.names)

    def curves(self, times: Float[np.ndarray, " T"]) -> tuple[np.ndarray, np.ndarray]:
        """Predictions of every subject at other times, with its random effects and with none: two arrays (N, T)."""
        subjects = self.population.subjects
        rows = np.broadcast_to(np.asarray(times, float), (len(subjects), np.size(times)))
        there = eqx.tree_at(
            lambda s: (s.times, s.values, s.mask), subjects, (rows, np.zeros(rows.shape), np.ones(rows.shape, bool))
        )
        individual, typical, _ = _predictions(there, self.theta, jnp.asarray(self.eta))
        return np.asarray(individual), np.asarray(typical)

    def simulate(self, replicates: int, seed: int = 0) -> Float[np.ndarray, "replicates n"]:
        """The measurements of new subjects with the same covariates and times, subject after subject."""
        subjects, rng = self.population.subjects, np.random.default_rng(seed)
        root = np.linalg.cholesky(self.theta["omega"])
        drawn = []
        for _ in range(replicates):
            eta = rng.standard_normal(self.eta.shape) @ root.T
            f = np.asarray(_predictions(subjects, self.theta, jnp.asarray(eta))[0])[subjects.mask]
            spread = np.sqrt(np.asarray(subjects.error.variance(f, self.theta["sigma"])))
            drawn.append(f + spread * rng.standard_normal(f.size))
        return np.array(drawn)

    @property
    def subjects(self):
        """The subjects that were fitted: `times`, `values`, `mask`, `names`."""
        return self.population.subjects

    def drawn(self, points: int = 200, replicates: int = 200, seed: int = 0) -> Drawn:
        """What the figures show, without the functions of the model: its `findings()` go into those of a `Report`."""
        seen = Seen(*(np.asarray(getattr(self.subjects, name)) for name in Seen._fields[:3]), self.subjects.names)
        grid = np.linspace(seen.times[seen.mask].min(), seen.times[seen.mask].max(), points)
        simulated, omega = self.simulate(replicates, seed), np.asarray(self.theta["omega"])
        return Drawn(seen, self.individual, self.typical, grid, *self.curves(grid), simulated, self.eta, omega)

    def table(self) -> str:
        """Estimates, standard errors, shrinkage and failures, in aligned lines."""
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("parameter", "estimate", "standard error", "relative"):
            shown.add_column(name, justify="left" if name == "parameter" else "right", no_wrap=True)
        values, errors = (_flat(x) for x in (self.theta, self.standard_errors))
        for name, value, error in zip(tree.entries(self.theta), values, errors, strict=True):
            if value == 0 and error == 0:  # held
                continue
            relative = f"{100 * abs(error / value):.1f} %" if value else ""
            shown.add_row(name, f"{value:.6g}", f"{error:.3g}", relative)
        lines = io.StringIO()
        console = Console(file=lines, width=120, highlight=False, markup=False, emoji=False)
        console.print(shown)
        shrunk = ", ".join(f"{100 * s:.1f} %" for s in self.eta_shrinkage)
        console.print(f"log likelihood {self.log_likelihood:.6f} by {self.method!r}; {len(self.eta)} subjects")
        console.print(f"shrinkage: eta {shrunk}; epsilon {100 * self.epsilon_shrinkage:.1f} %")
        for name, why in self.failed.items():
            console.print(f"left out: subject {name!r} {why}")
        took = f"{self.seconds['compile']:.1f} s to compile, {self.seconds['run']:.2f} s to run"
        console.print(f"{self.evaluations} evaluations, {took}; {self.message}")
        return "\n".join(line.rstrip() for line in lines.getvalue().strip("\n").splitlines())

    def __str__(self):
        return self.table()


def estimates(
    population,
    method: Method,
    parameters: Parameters,
    theta: PyTree,
    evaluation: Evaluation,
    hessian: np.ndarray | None,
    failed: dict[str, str],
    evaluations: int,
    seconds: dict[str, float],
    message: str,
    report: Report,
) -> PopulationFit:
    """All that follows from the maximum: its Hessian on the search scale, and the modes there."""
    u = parameters.search(theta)
    covariance = np.full((u.size, u.size), np.nan) if hessian is None else 2 * np.linalg.inv(hessian)
    eta = evaluation.solution.x if method.modes else solve(population.problem(FOCEI()).lower, theta).x
    subjects = population.subjects
    individual, typical, weighted = (np.asarray(x) for x in _predictions(subjects, theta, jnp.asarray(eta)))
    rows = [[row[mask] for row, mask in zip(x, subjects.mask, strict=True)] for x in (individual, typical, weighted)]
    eta = np.asarray(eta)
    spread = np.std(eta, axis=0, ddof=1) if len(eta) > 1 else np.zeros(eta.shape[1])
    residuals = np.concatenate(rows[2])
    return PopulationFit(
        theta=theta,
        value=float(evaluation.value),
        standard_errors=_standard_errors(parameters, theta, u, covariance),
        covariance=covariance,
        names=tuple(parameters.names),
        eta=eta,
        eta_shrinkage=1 - spread / np.sqrt(np.diagonal(theta["omega"])),
        epsilon_shrinkage=float(1 - np.std(residuals, ddof=1)) if residuals.size > 1 else 0.0,
        individual=rows[0],
        typical=rows[1],
        weighted_residuals=rows[2],
        failed=failed,
        evaluations=evaluations,
        seconds=seconds,
        message=message,
        method=method,
        population=population,
        report=report,
    )


def _standard_errors(parameters: Parameters, theta: PyTree, u, covariance) -> PyTree:
    """The covariance on the search scale carried to theta: J C J^T, with J = dtheta/du.

    At a maximum it is the inverse of the Hessian in theta itself.
    """
    flat, unravel = ravel_pytree(tree.to_numpy(theta))
    rows = np.array([parameters.pull(u, tree.to_numpy(unravel(unit))) for unit in jnp.eye(flat.size)])
    return tree.to_numpy(unravel(jnp.sqrt(jnp.einsum("ij,jk,ik->i", rows, covariance, rows))))


@eqx.filter_jit
def _predictions(subjects, theta, eta):
    """Predictions with eta and with eta = 0, and weighted residuals."""

    def one(subject, eta):
        individual, typical = (subject.expand(theta, e, 0).terms[0] for e in (eta, jnp.zeros_like(eta)))
        weighted = subject.deviations(individual) / jnp.sqrt(subject.variance(theta, individual))
        return individual, typical, weighted

    return subjects.each(one, eta)


def _flat(x: PyTree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(x)])
