"""Learned momentum on quadratics of growing condition number, against the closed form of the asymptotic rate."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import invhyper as ih

CASES = ((10, 20), (100, 60), (1000, 200))  # condition number k, steps T
GRADIENT = 3  # training runs that a hypergradient in reverse mode is counted as
SPREADS = (0.1, 0.05, 0.025, 0.0125)
BATCH = 500  # thetas that are run side by side
SEEDS = 3
# Grids to compare with: ends of eta, as factors of the closed form's, and ends of 1 - beta.
GRIDS = (((0.1, 3), (1e-3, 1)), ((0.1, 3), (1e-2, 1)), ((0.01, 4), (1e-4, 0.999)), ((0.3, 2), (0.03, 0.99)))


class Quadratic(eqx.Module):
    """f(x) = 1/2 sum_i lam_i x_i^2, with the curvatures lam as data: one compiled program for all of them."""

    curvatures: jax.Array

    def __call__(self, x, theta):
        return 0.5 * jnp.sum(self.curvatures * x**2)


class Log(eqx.Module):
    """log f: a run of T steps shrinks f by many powers of ten."""

    loss: Quadratic

    def __call__(self, x, theta):
        return jnp.log(self.loss(x, theta))


def problem(k: float) -> ih.Bilevel:
    """20 curvatures from 1 to k, x_0 = 1, v_0 = 0; the criterion is log f(x_T)."""
    loss = Quadratic(jnp.geomspace(1.0, k, 20))
    return ih.Bilevel(ih.Momentum(loss, np.ones(20)), Log(loss))


def closed_form(k: float) -> dict:
    """The step size and momentum of the best asymptotic rate, for curvatures between 1 and k."""
    root = np.sqrt(k)
    return {"eta": (2 / (root + 1)) ** 2, "beta": ((root - 1) / (root + 1)) ** 2}


def box(k: float) -> Callable[[dict], ih.Parameters]:
    """theta -> Parameters that start there. No momentum below 1 is stable at eta >= 4 / L."""
    return lambda theta: ih.Parameters(
        eta=ih.log(theta["eta"], 1e-6, 4 / k), beta=ih.logit(np.clip(theta["beta"], 1e-12, 1 - 1e-12))
    )


# ------------------------------------------------------------ a search for criteria with many narrow valleys


@dataclass
class Spent:
    """What a search cost: training runs in units of the full length, and the best criterion so far after each part."""

    runs: float = 0.0
    gradients: int = 0
    history: list = field(default_factory=list)

    def add(self, runs: float, value: float):
        self.runs += runs
        self.history.append((self.runs, value))


def longer_and_longer(problem, start: ih.Parameters, parameters: Callable, steps: int, spent: Spent, **options) -> list:
    """Reports for T / 2^n, ..., T / 2, T steps, each search started from the theta that the one before ended at.

    **Arguments**: `parameters`: theta -> `Parameters` that start there; `options` go to `tune`. A short run depends on
    its hyperparameters smoothly; each doubling adds detail to a criterion whose rough shape is known by then.
    """
    reports = []
    for length in lengths(steps):
        reports.append(ih.tune(problem, start, ih.Unrolled(length), ih.LBFGSB(), **options))
        start = parameters(reports[-1].theta)
        solves = reports[-1].history[-1].solves
        spent.gradients += solves
        spent.add(GRADIENT * solves * length / steps, reports[-1].value if length == steps else np.nan)
    return reports


def lengths(steps: int, least: int = 5) -> list[int]:
    """steps / 2^n, ..., steps / 2, steps: whole numbers, at least `least`."""
    return [*lengths(steps // 2, least), steps] if steps // 2 >= least else [steps]


def narrower_and_narrower(
    problem, report: ih.Report, parameters: Callable, hypergradient, spent: Spent, *,
    spreads: Sequence[float] = SPREADS, draws: int = BATCH, descents: int = 8, seed: int = 0, **options,
) -> ih.Report:  # fmt: skip
    """The best of descents from the best of many draws around the best so far, round after round.

        u_i = u* + spread xi_i,  xi_i normal,  u on the search scale;  the `descents` of least F(u_i) start a search

    **Arguments**: `report`: where it begins; `spreads`: one a round; `draws`: thetas a round, which cost a run without
    derivative each; `options` go to `tune`. For criteria with many valleys, too narrow for a draw to hit their
    floor: draws tell which valleys are deep, descents how deep.
    """
    rng = np.random.default_rng(seed)
    for spread in spreads:
        here = parameters(report.theta)
        low, high = here.bounds
        drawn = np.clip(here.start + spread * rng.standard_normal((draws, here.size)), low, high)
        thetas = [here.natural(u) for u in drawn]
        found = values(problem, hypergradient, jax.tree.map(lambda *leaves: np.stack(leaves), *thetas))
        spent.add(draws, report.value)
        starts = [parameters(thetas[i]) for i in np.argsort(found)[:descents]]
        with ThreadPoolExecutor(2) as pool:
            tune = partial(ih.tune, problem, hypergradient=hypergradient, search=ih.LBFGSB(), **options)
            ends = ih.multistart(tune, starts, pool)
        for end in (end for end in ends if isinstance(end, ih.Report)):
            solves = end.history[-1].solves
            spent.gradients += solves
            report = min(report, end, key=lambda report: report.value)
            spent.add(GRADIENT * solves, report.value)
    return report


def values(problem, hypergradient, thetas) -> np.ndarray:
    """F of many thetas (leaves that begin with one axis), BATCH side by side; infinite where a run diverged."""
    count = len(jax.tree.leaves(thetas)[0])
    padded = jax.tree.map(lambda leaf: np.resize(leaf, (-(-count // BATCH) * BATCH, *leaf.shape[1:])), thetas)
    parts = [
        _batch(problem, hypergradient, jax.tree.map(lambda leaf: leaf[i : i + BATCH], padded))  # noqa: B023
        for i in range(0, count, BATCH)
    ]
    found = np.concatenate(parts)[:count]
    return np.where(np.isfinite(found), found, np.inf)


@eqx.filter_jit
def _batch(problem, hypergradient, thetas):
    run = ih.layer(problem.lower, hypergradient)
    return jax.vmap(lambda theta: problem.criterion(run(theta), theta))(thetas)


# ------------------------------------------------------------ the study


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Learn (eta, beta) from eta = 1/L, beta = 1/2 for each case, beside the closed form and refined grids.

    **Arguments**: `quick`: two cases, one seed, coarse maps; `seed`: of the draws; `watch`: as in `tune`.
    The report is that of the last case.
    """
    cases, rounds = (CASES[:2], {"spreads": (0.1, 0.03), "descents": 6}) if quick else (CASES, {})
    findings, learned = {"cases": [f"{k}, {T}" for k, T in cases]}, []
    for k, T in cases:
        ladder, best, spent = learn(k, T, seed, watch, **rounds)
        again = [learn(k, T, seed + i, **rounds)[1] for i in range(1, 1 if quick else SEEDS)]
        learned.append((k, T, best.theta))
        findings[f"case_{k}"] = compared(k, T, ladder, best, spent, again)
    each = [findings[f"case_{k}"] for k, _ in cases]
    for T in (10,) if quick else (10, 20, 40, 80, 160, 320, 640):
        k = (T / 6.4) ** 2  # as many steps for each factor of the asymptotic rate as in the cases, about
        learned.append((k, T, learn(k, T, seed, **rounds)[1].theta))
    k, T, theta = learned[len(cases) - 1]
    findings |= {
        "worst_factor_of_grid": max(found["factor_of_grid"] for found in each),
        "worst_factor_of_closed_form": max(found["factor_of_closed_form"] for found in each),
        "worst_factor_of_seeds": max(found["factor_of_seeds"] for found in each),
        **{f"log_loss_{found['k']}": found["log_loss"] for found in each},
        "runs": [found["runs"] for found in each],
        "gradients": [found["gradients"] for found in each],
        "eta_off": float(theta["eta"] / closed_form(k)["eta"] - 1),
        "beta_off": float(theta["beta"] - closed_form(k)["beta"]),
        "sweep": np.array(sorted((k, T, theta["eta"], theta["beta"]) for k, T, theta in learned)),
        "maps": maps(k, T, theta, 100 if quick else 300),
    }
    provenance = best.provenance | {"seed": seed}
    return replace(best, provenance=provenance, findings={**findings, "summary": summary(findings)})


def learn(k: float, T: int, seed: int = 0, watch: Sequence[Callable] = (), **rounds) -> tuple[list, ih.Report, Spent]:
    """Longer and longer runs, then narrower and narrower draws: the reports of the former, the best, what it cost."""
    spent, parameters, it = Spent(), box(k), problem(k)
    ladder = longer_and_longer(it, parameters(start(k)), parameters, T, spent, watch=watch)
    return ladder, narrower_and_narrower(it, ladder[-1], parameters, ih.Unrolled(T), spent, seed=seed, **rounds), spent


def start(k: float) -> dict:
    """The step that gradient descent may take, and a guess."""
    return {"eta": 1 / k, "beta": 0.5}


def compared(k, T, ladder, best, spent, again) -> dict:
    """One case: learned, closed form and grids; factors are of the loss itself, below 1 where the learned one wins."""
    thetas = {"start": start(k), "closed form": closed_form(k), "learned": best.theta}
    curves = {name: losses(k, theta, T + T // 2) for name, theta in thetas.items()}
    final = {name: np.log(curve[T]) for name, curve in curves.items()}
    grids = [refined_grid(k, T, *ranges) for ranges in GRIDS]
    history = np.array([(0.0, final["start"]), *spent.history])
    history[1 : len(ladder) + 1, 1] = [np.log(losses(k, report.theta, T)[T]) for report in ladder]
    return {
        "k": k,
        "T": T,
        "eta": float(best.theta["eta"]),
        "beta": float(best.theta["beta"]),
        "log_loss": best.value,
        "closed_form_log_loss": float(final["closed form"]),
        "start_log_loss": float(final["start"]),
        "grid_log_losses": grids,
        "seed_log_losses": [best.value, *(other.value for other in again)],
        "factor_of_grid": float(np.exp(best.value - min(grids))),
        "factor_of_closed_form": float(np.exp(best.value - final["closed form"])),
        "factor_of_seeds": float(np.exp(max([best.value, *(other.value for other in again)]) - best.value)),
        "numpy_differs": float(abs(final["learned"] - best.value)),
        "runs": spent.runs,
        "gradients": spent.gradients,
        "history": history,
        "ladder": np.array([[t, r.theta["eta"], r.theta["beta"]] for t, r in zip(lengths(T), ladder, strict=True)]),
        "curves": curves,
    }


def losses(k: float, theta: dict, steps: int) -> np.ndarray:
    """f(x_t) for t = 0 ... steps, in NumPy."""
    lam = np.geomspace(1.0, k, 20)
    x, v, found = np.ones(20), np.zeros(20), []
    for _ in range(steps + 1):
        found.append(0.5 * np.sum(lam * x**2))
        v = theta["beta"] * v + lam * x
        x = x - theta["eta"] * v
    return np.array(found)


def refined_grid(k, T, eta: tuple, rest: tuple, points: int = 100) -> float:
    """The best log f of a grid, even in log eta and log(1 - beta), and of a second one between its best neighbours.

    **Arguments**: `eta`: its ends, as factors of the closed form; `rest`: the ends of 1 - beta.
    """
    axes = [np.linspace(*np.log(closed_form(k)["eta"] * np.array(eta)), points), np.linspace(*np.log(rest), points)]
    best = np.inf
    for _ in range(2):
        found = surface(k, T, np.exp(axes[0]), 1 - np.exp(axes[1]))
        at = np.unravel_index(np.argmin(found), found.shape)
        best = min(best, float(found[at]))
        axes = [
            np.linspace(axis[max(i - 1, 0)], axis[min(i + 1, points - 1)], points)
            for axis, i in zip(axes, at, strict=True)
        ]
    return best


def surface(k, T, etas, betas) -> np.ndarray:
    """log f(x_T) over the grid etas x betas."""
    eta, beta = np.meshgrid(etas, betas, indexing="ij")
    thetas = {"eta": eta.ravel(), "beta": beta.ravel()}
    return values(problem(k), ih.Unrolled(T), thetas).reshape(eta.shape)


def maps(k, T, theta, points: int) -> dict:
    """log f(x_T) around the closed form, from afar, and around the learned theta, from near."""
    far = closed_form(k)["eta"] * np.geomspace(0.15, 1.6, points), 1 - np.geomspace(1e-2, 1, points)
    logit = np.log(theta["beta"] / (1 - theta["beta"])) + np.linspace(-0.08, 0.08, points)
    near = theta["eta"] * np.exp(np.linspace(-0.06, 0.05, points)), 1 / (1 + np.exp(-logit))
    found = {"k": k, "T": T}
    for name, (etas, betas) in (("far", far), ("near", near)):
        found[name] = {"eta": etas, "beta": betas, "log_loss": surface(k, T, etas, betas)}
    return found


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    lines = [
        f"{'log f(x_T)':20}{'1/L, 0.5':>10}{'closed form':>13}{'learned':>10}{'grids':>10}   "
        f"{'eta / eta*':>10}{'beta':>8}{'beta*':>8}{'runs':>8}"
    ]
    for name in found["cases"]:
        case = found[f"case_{name.split(',')[0]}"]
        best = closed_form(case["k"])
        lines.append(
            f"{'k = ' + str(case['k']) + ', T = ' + str(case['T']):20}{case['start_log_loss']:10.3f}"
            f"{case['closed_form_log_loss']:13.3f}{case['log_loss']:10.3f}{min(case['grid_log_losses']):10.3f}   "
            f"{case['eta'] / best['eta']:10.3f}{case['beta']:8.3f}{best['beta']:8.3f}{case['runs']:8.0f}"
        )
    lines.append(
        f"a grid, refined once, takes 20000 runs; {len(found['cases'])} cases, other seeds of the draws:"
        f" the loss is at most {found['worst_factor_of_seeds']:.6f} times that of the first"
    )
    return lines
