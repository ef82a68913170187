"""Evidence for a hypergradient from outside: the gradient audit against central differences.

What a hypergradient says of itself stands in its `Certificate` (residuals reached, error estimate, margin); the audit
asks the criterion's values instead and shares no derivative code with what it checks.
"""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Bool, Float, PyTree
from scipy.sparse.linalg import ArpackNoConvergence

from invhyper import tree
from invhyper.bilevel import Bilevel
from invhyper.eigenvalues import Spectrum
from invhyper.hypergradient.implicit import Implicit
from invhyper.hypergradient.spectrum import spectrum as spectrum_at
from invhyper.problem import Certificate

EACH_COORDINATE_UP_TO = 20
DRAWN_DIRECTIONS = 5
SMALLEST_STEP = 1e-10
# The steps of a curve, relative to the size of theta along the direction.
CURVE_STEPS = np.geomspace(1e-1, 1e-9, 13)
# A difference of differences tells their truncation where it is so many times their noise.
CLEAR = 30.0


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
class Curve:
    """Central differences in one direction over `steps` h (falling): the V of truncation and rounding.

    `differences` D(h), and their `errors` |D(h) - slope|, relative to the larger of the two numbers compared; `same`:
    whether both ends stand on the stratum of theta, so that D(h) means anything. Predicted, also relative: errors of
    `truncation` h^2 for large steps (NaN: none to be seen) and of `noise` / h for small ones, from the residuals
    reached and rounding.
    """

    direction: str
    steps: Float[np.ndarray, " n"]
    differences: Float[np.ndarray, " n"]
    errors: Float[np.ndarray, " n"]
    same: Bool[np.ndarray, " n"]
    truncation: float
    noise: float


@dataclass(frozen=True)
class Audit:
    """The comparisons of an audit; `passed` if none disagrees and at least one agrees; `verdict` in words.

    `rtol`: what was asked; `certificate`: of the hypergradient at theta; `curves`: one for each comparison, if asked
    for; `spectrum`: the eigenvalues of A there, if asked for (None: not; or a run, which has no A; or not found).
    """

    comparisons: tuple[Comparison, ...]
    passed: bool
    verdict: str
    rtol: float
    certificate: Certificate
    curves: tuple[Curve, ...] = ()
    spectrum: Spectrum | None = None

    @property
    def evidence(self) -> dict[str, str]:
        """What else speaks for or against the hypergradient, in words: residuals, margin, eigenvalues of A."""
        found = self.certificate
        said = {
            "lower residual": f"{found.lower_residual:.1e}",
            "adjoint residual": f"{found.adjoint_residual:.1e}",
        }
        if found.error_estimate is not None:
            said["error estimate"] = f"{found.error_estimate:.1e}"
        if np.isfinite(found.margin):
            said["margin to a kink"] = f"{found.margin:.1e} {found.margin_of}".strip()
        else:
            said["margin to a kink"] = "infinite, no kink is known of"
        if self.spectrum is not None:
            low, high = self.spectrum.smallest, self.spectrum.largest
            if np.isnan(high):
                said["eigenvalues of A"] = "none, no unknown is free"
            elif low > 0:
                said["eigenvalues of A"] = f"{low:.3g} to {high:.3g}, condition number {self.spectrum.condition:.3g}"
            else:
                said["eigenvalues of A"] = f"{low:.3g} to {high:.3g}, not positive definite"
        return said


def audit(
    problem: Bilevel,
    theta: PyTree,
    hypergradient=None,
    *,
    step: float = 1e-4,
    tol: float = 1e-12,
    rtol: float = 1e-6,
    seed: int = 0,
    curve: bool = False,
    spectrum: bool = False,
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
    `curve`: True adds D(h) for 13 steps from 1e-1 to 1e-9 (26 solves a direction), which `plots.audit` draws;
    `spectrum`: True adds the eigenvalues of A.

    **Raises** what the hypergradient raises at theta itself.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.ones(2)))
    >>> checked = ih.certificate.audit(problem, {"l2": 1.0})
    >>> checked.passed, checked.comparisons[0].relative_error < 1e-8
    (True, True)

    Richardson (1911), doi:10.1098/rsta.1911.0009.
    """
    hypergradient = Implicit() if hypergradient is None else hypergradient
    for name, value in (("step", step), ("tol", tol), ("rtol", rtol)):
        if not (np.ndim(value) == 0 and np.isfinite(value) and value > 0):
            raise ValueError(f"audit {name} = {value!r}: a positive number is wanted")
    theta = problem.check(theta)
    here = hypergradient(problem, theta, tol=max(tol, 1e-8))
    probe = _Probe(problem, hypergradient, theta, here, tol)
    lines = [_Line(probe, name, direction) for name, direction in directions(theta, seed).items()]
    comparisons = tuple(_compare(line, step, rtol) for line in lines)
    curves = tuple(map(_curve, lines, comparisons)) if curve else ()
    is_run = getattr(hypergradient, "of_a_run", False)
    eigenvalues = _eigenvalues(problem, theta, here) if spectrum and not is_run else None
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
    return Audit(comparisons, not wrong and right > 0, said, rtol, here.certificate, curves, eigenvalues)


def _eigenvalues(problem, theta, here) -> Spectrum | None:
    try:
        return spectrum_at(problem, theta, solution=here.solution)
    except ArpackNoConvergence:
        return None


class _Probe:
    """F around theta, with the stratum and the noise of every value."""

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


class _Line:
    """F along a line through theta, every point evaluated once."""

    def __init__(self, probe: _Probe, name: str, direction):
        self.probe, self.name, self.direction = probe, name, direction
        self.slope = float(tree.dot(probe.here.gradient, direction))
        self.size = float(np.sqrt(tree.dot(*[_masked(probe.theta, direction)] * 2))) or 1.0
        self.unit = self.size / float(tree.norm(direction))
        self.seen = {}

    def difference(self, h: float, side: float) -> tuple[float, float, bool]:
        """D(h), its noise, and whether its points share theta's stratum; side 0: central, +1 or -1: one-sided."""
        if side:
            offsets, factors = (0.0, side * h, 2 * side * h), (-1.5 * side, 2 * side, -0.5 * side)
        else:
            offsets, factors = (-h, h), (-0.5, 0.5)
        for offset in offsets:
            if offset not in self.seen:
                self.seen[offset] = self.probe.at(self.direction, offset)
        values, noise, same = zip(*(self.seen[offset] for offset in offsets), strict=True)
        return float(np.dot(values, factors)) / h, max(noise) / h, all(same)

    def side(self, h: float) -> float:
        """Which differences stay within the bounds: central ones (0), those ahead (1) or behind (-1)."""
        ahead = self.probe.inside(self.direction, h)
        if ahead and self.probe.inside(self.direction, -h):
            return 0.0
        return 1.0 if ahead else -1.0


def _compare(line: _Line, step: float, rtol: float) -> Comparison:
    slope, size = line.slope, line.size
    h = step * line.unit
    note = "kink within reach: the stratum changes however small the step"
    while h >= SMALLEST_STEP * size:
        side = line.side(h)
        coarse, _, far = line.difference(h, side)
        fine, noise, near = line.difference(h / 2, side)
        if far and near:
            difference = (4 * fine - coarse) / 3
            uncertainty = abs(fine - coarse) / 3 + 2 * noise
            scale = max(abs(slope), abs(difference))
            if uncertainty <= max(0.1 * scale, 1e-6 * abs(line.probe.here.value) / size):
                agrees = abs(slope - difference) <= rtol * scale + 2 * uncertainty
                return Comparison(line.name, slope, float(difference), float(uncertainty), h, bool(agrees))
            note = f"differences too noisy (known to {uncertainty:.1e} at h = {h:.1e}): tighten tol or raise step"
        h /= 10
    return Comparison(line.name, slope, np.nan, np.inf, h, None, note)


def _curve(line: _Line, comparison: Comparison) -> Curve:
    steps = CURVE_STEPS * line.unit
    found = [line.difference(h, line.side(h)) for h in steps]
    differences, noise, same = (np.array(each) for each in zip(*found, strict=True))
    known = np.nanmedian(np.abs(differences)) if np.isnan(comparison.difference) else abs(comparison.difference)
    scale = max(abs(line.slope), float(known)) or 1.0
    # Truncation from neighbours: the smallest steps at which it still stands out, where h^2 says it best.
    gaps = np.abs(np.diff(differences))
    clear = np.flatnonzero(same[1:] & same[:-1] & (gaps > CLEAR * noise[1:]))
    k = clear[-1] if clear.size else None
    truncation = np.nan if k is None else gaps[k] / (steps[k] ** 2 - steps[k + 1] ** 2) / scale
    level = float(np.median((noise * steps)[same])) if same.any() else np.nan
    errors = np.abs(differences - line.slope) / scale
    return Curve(line.name, steps, differences, errors, same, float(truncation), level / scale)


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
