"""Evidence for a hypergradient from outside: the gradient audit against central differences.

What a hypergradient says of itself stands in its `Certificate` (residuals reached, error estimate, margin); the audit
asks the criterion's values instead and shares no derivative code with what it checks.
"""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import PyTree

from invhyper import tree
from invhyper.bilevel import Bilevel
from invhyper.hypergradient.implicit import Implicit

EACH_COORDINATE_UP_TO = 20
DRAWN_DIRECTIONS = 5
SMALLEST_STEP = 1e-10


@dataclass(frozen=True)
class Comparison:
    """One directional derivative twice: `slope` from the gradient, `difference` from values, known to `uncertainty`.

    `step` is the h that was used. `agrees` is None where the differences cannot decide (a kink within reach), and
    `note` says why.
    """

    direction: str
    slope: float
    difference: float
    uncertainty: float
    step: float
    agrees: bool | None
    note: str = ""

    @property
    def relative_error(self) -> float:
        """|slope - difference| / |difference|."""
        gap = abs(self.slope - self.difference)
        return gap / abs(self.difference) if self.difference else gap


@dataclass(frozen=True)
class Audit:
    """The comparisons of an audit; `passed` if none disagrees and at least one agrees; `verdict` in words."""

    comparisons: tuple[Comparison, ...]
    passed: bool
    verdict: str


def audit(
    problem: Bilevel,
    theta: PyTree,
    hypergradient=None,
    *,
    step: float = 1e-4,
    tol: float = 1e-12,
    rtol: float = 1e-6,
    seed: int = 0,
) -> Audit:
    """Compare a hypergradient with central differences of F, direction by direction.

        D(h) = (F(theta + h d) - F(theta - h d)) / 2h,    extrapolated: (4 D(h/2) - D(h)) / 3

    Every scalar of theta is a direction, or, beyond 20 of them, each key as a whole and 5 random directions. h starts
    at `step` times the size of theta along d, and is shrunk until the solution lies on the same stratum at all five
    points: across a kink differences mean nothing. A slope agrees if it is within `rtol` (relative) plus the
    uncertainty of the differences: their truncation, |D(h/2) - D(h)| / 3, and the noise of F (lower-level residual
    reached, rounding) over h.

    **Arguments**: `hypergradient`: what is audited (None: `Implicit()`); its own values are differenced, so that
    `Unrolled` is compared with the truncated run it differentiates. `tol` is asked of the lower level; what it reaches
    goes into the uncertainty. Where theta - h d leaves the bounds, one-sided differences of second order are used.

    **Raises** what the hypergradient raises at theta itself.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.ones(2)))
    >>> checked = ih.certificate.audit(problem, {"l2": 1.0})
    >>> checked.passed, checked.comparisons[0].relative_error < 1e-8
    (True, True)

    Richardson (1911), doi:10.1098/rsta.1911.0009.
    """
    hypergradient = Implicit() if hypergradient is None else hypergradient
    theta = problem.check(theta)
    here = hypergradient(problem, theta, tol=max(tol, 1e-8))
    probe = _Probe(problem, hypergradient, theta, here, tol)
    comparisons = tuple(
        _compare(probe, name, direction, step, rtol) for name, direction in directions(theta, seed).items()
    )
    wrong = [c for c in comparisons if c.agrees is False]
    undecided = [c for c in comparisons if c.agrees is None]
    right = len(comparisons) - len(wrong) - len(undecided)
    said = f"{right} of {len(comparisons)} slopes agree with central differences"
    if wrong:
        worst = max(wrong, key=lambda c: c.relative_error)
        said += (
            f"; {len(wrong)} disagree, the worst in {worst.direction}: {worst.slope:.6g} against {worst.difference:.6g}"
        )
    if undecided:
        said += f"; {len(undecided)} undecided ({undecided[0].direction}: {undecided[0].note})"
    return Audit(comparisons, not wrong and right > 0, said)


class _Probe:
    """F along a line through theta, with the stratum and the noise of every value."""

    def __init__(self, problem, hypergradient, theta, here, tol):
        self.problem, self.hypergradient, self.theta, self.here, self.tol = problem, hypergradient, theta, here, tol
        self.lower_bound, self.upper_bound = problem.lower.bounds(theta)
        self.stratum = self._stratum(here, theta)

    def at(self, direction, h):
        """F(theta + h d), its noise, and whether the stratum is that of theta."""
        theta = tree.axpy(h, direction, self.theta)
        found = self.hypergradient(self.problem, theta, tol=self.tol, throw=False)
        unsolved = 0.0 if getattr(self.hypergradient, "of_a_run", False) else found.certificate.lower_residual
        noise = (unsolved + np.finfo(float).eps) * max(abs(found.value), abs(self.here.value))
        return found.value, noise, _same(self._stratum(found, theta), self.stratum)

    def inside(self, direction, h) -> bool:
        """Whether theta + h d respects the bounds."""
        moved = jax.tree.leaves(tree.axpy(h, direction, self.theta))
        low, high = jax.tree.leaves(self.lower_bound), jax.tree.leaves(self.upper_bound)
        return all(np.all(m >= a) and np.all(m <= b) for m, a, b in zip(moved, low, high, strict=True))

    def _stratum(self, evaluation, theta):
        lower = self.problem.lower
        return lower.linearise(evaluation.solution, theta).stratum if lower.host else None


def _compare(probe, name, direction, step, rtol) -> Comparison:
    slope = float(tree.dot(probe.here.gradient, direction))
    size = float(np.sqrt(tree.dot(_masked(probe.theta, direction), _masked(probe.theta, direction)))) or 1.0
    h = step * size / float(tree.norm(direction))
    note = "kink within reach: the stratum changes however small the step"
    while h >= SMALLEST_STEP * size:
        coarse, fine, noise, same = _differences(probe, direction, h)
        if same:
            difference = (4 * fine - coarse) / 3
            uncertainty = abs(fine - coarse) / 3 + 4 * noise / h
            scale = max(abs(slope), abs(difference))
            if uncertainty <= max(0.1 * scale, 1e-6 * abs(probe.here.value) / size):
                agrees = abs(slope - difference) <= rtol * scale + 2 * uncertainty
                return Comparison(name, slope, float(difference), float(uncertainty), h, bool(agrees))
            note = f"differences too noisy (known to {uncertainty:.1e} at h = {h:.1e}): tighten tol or raise step"
        h /= 10
    return Comparison(name, slope, np.nan, np.inf, h, None, note)


def _differences(probe, direction, h):
    """D(h), D(h/2), the noise of F and whether all the points share theta's stratum; one-sided at a bound."""
    if probe.inside(direction, -h) and probe.inside(direction, h):
        offsets, coarse_of, fine_of = (-h, -h / 2, h / 2, h), (-0.5, 0, 0, 0.5), (0, -1.0, 1.0, 0)
    else:
        s = 1.0 if probe.inside(direction, h) else -1.0
        offsets, coarse_of, fine_of = (
            (0.0, s * h / 2, s * h, s * h * 2),
            (-1.5 * s, 0, 2 * s, -0.5 * s),
            (-3 * s, 4 * s, -s, 0),
        )
    points = [probe.at(direction, offset) for offset in offsets]
    values = np.array([value for value, _, _ in points])
    noise = max(noise for _, noise, _ in points)
    return values @ coarse_of / h, values @ fine_of / h, noise, all(same for _, _, same in points)


def directions(theta, seed) -> dict:
    """Named directions in the space of theta."""
    names, leaves = tree.paths(theta), jax.tree.leaves(theta)
    structure = jax.tree.structure(theta)

    def single(i, value):
        parts = [np.zeros_like(leaf) for leaf in leaves]
        parts[i] = value
        return jax.tree.unflatten(structure, parts)

    if tree.size(theta) <= EACH_COORDINATE_UP_TO:
        found = {}
        for i, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
            for j in range(leaf.size):
                one = np.zeros(leaf.size)
                one[j] = 1.0
                found[name if leaf.ndim == 0 else f"{name}[{j}]"] = single(i, one.reshape(leaf.shape))
        return found
    rng = np.random.default_rng(seed)
    found = {
        f"{name} (all entries)": single(i, np.ones_like(leaf))
        for i, (name, leaf) in enumerate(zip(names, leaves, strict=True))
    }
    for k in range(DRAWN_DIRECTIONS):
        drawn = [rng.standard_normal(leaf.shape) * (np.abs(leaf) + (leaf == 0)) for leaf in leaves]
        found[f"random {k + 1}"] = jax.tree.unflatten(structure, drawn)
    return found


def _masked(theta, direction):
    return jax.tree.map(lambda t, d: np.where(d != 0, t, 0.0), theta, direction)


def _same(a, b) -> bool:
    first, second = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(first) == len(second) and all(np.array_equal(u, v) for u, v in zip(first, second, strict=True))
