"""Problems with known answers, shared by all tests: closed forms of x*, F and grad F, and makers of random ones."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import numpy as np
from scipy.special import expit

import invhyper as ih


def ridge_problem(n=40, p=15, m=20, seed=0):
    """A, y to fit and A, y to validate, Gaussian."""
    rng = np.random.default_rng(seed)
    A, truth = rng.standard_normal((n, p)), rng.standard_normal(p)
    held = rng.standard_normal((m, p))
    return A, A @ truth + 0.5 * rng.standard_normal(n), held, held @ truth + 0.5 * rng.standard_normal(m)


def ridge_closed_form(A, y, l2):
    """x* = (A^T A + diag l2)^-1 A^T y and dx*/dl2 (p, p): column j is -H^-1 e_j x_j."""
    hessian = A.T @ A + np.diag(np.broadcast_to(l2, A.shape[1]))
    x = np.linalg.solve(hessian, A.T @ y)
    return x, -np.linalg.solve(hessian, np.diag(x))


def logistic_problem(n=80, p=6, m=40, seed=0):
    """A and labels -1/+1 to fit and to validate."""
    rng = np.random.default_rng(seed)
    truth = 2 * rng.standard_normal(p) / np.sqrt(p)
    A, held = rng.standard_normal((n, p)), rng.standard_normal((m, p))
    labels = [np.where(rng.random(len(B)) < expit(B @ truth), 1.0, -1.0) for B in (A, held)]
    return A, labels[0], held, labels[1]


def logistic_reference(A, labels, l2, held, held_labels):
    """x*, the held-out log-loss and its gradient in l2 (one per coefficient), by NumPy Newton and Cholesky."""
    n, p = A.shape
    x, decay = np.zeros(p), np.broadcast_to(l2, p)
    for _ in range(100):
        miss = expit(-labels * (A @ x))
        slope = -A.T @ (labels * miss) / n + decay * x
        hessian = (A.T * (miss * (1 - miss) / n)) @ A + np.diag(decay)
        x = x - np.linalg.solve(hessian, slope)
    margins = held_labels * (held @ x)
    pull = -held.T @ (held_labels * expit(-margins)) / len(held)
    return x, np.mean(np.logaddexp(0, -margins)), -np.linalg.solve(hessian, pull) * x


def breast_cancer():
    """Standardised columns (all rows, ddof 0), labels -1/+1: even rows to fit, odd rows to validate.

    L2 logistic regression without intercept: the best weight is 0.0060869560, its validation loss 0.10807402131945.
    """
    from sklearn.datasets import load_breast_cancer

    A, y = load_breast_cancer(return_X_y=True)
    A = (A - A.mean(0)) / A.std(0)
    y = np.where(y == 1, 1.0, -1.0)
    return A[::2], y[::2], A[1::2], y[1::2]


def seed_ode():
    """Times, data and the two basis curves of x(t) = q e^-t + p k(t), the solution of x' = -x + p sin 3t, x(0) = q.

    Fitting p by least squares on even times at q = .4, validating on odd ones (sums of squares): p* = 1.43672283939,
    dF/dq = -2.12846620416.
    """
    t = np.linspace(0, 5, 51)
    decay, driven = np.exp(-t), (np.sin(3 * t) - 3 * np.cos(3 * t) + 3 * np.exp(-t)) / 10
    data = 0.9 * decay + 1.2 * driven + 0.02 * np.random.default_rng(0).standard_normal(51)
    return t, data, decay, driven


def driven(t, drive):
    """k(t) = int_0^t e^-(t-s) u(s) ds, exactly, for u = sum poly_j t^j (j < 3) + sum_i size_i sin(rate_i t + phase_i).

    The solution of x' = -x + p u(t), x(0) = q is q e^-t + p k(t).
    """
    decay = np.exp(-t)
    k = np.stack([1 - decay, t - 1 + decay, t**2 - 2 * t + 2 - 2 * decay], axis=-1) @ drive["poly"]
    for size, rate, phase in zip(drive["size"], drive["rate"], drive["phase"], strict=True):
        k = k + size * np.imag(np.exp(1j * phase) * (np.exp(1j * rate * t) - decay) / (1 + 1j * rate))
    return k


def driven_case(seed):
    """A random drive, q, and (times, data) to fit and to validate, of x' = -x + 1.2 u(t), x(0) = .9 with noise .1."""
    rng = np.random.default_rng(seed)
    sines = {"size": rng.standard_normal(3), "rate": rng.uniform(0.5, 6, 3), "phase": rng.uniform(0, 6, 3)}
    drive = {"poly": rng.standard_normal(3) * [1, 0.5, 0.1], **sines}
    q, halves = rng.uniform(-1, 1), []
    for size in (26, 25):
        t = np.sort(rng.uniform(0.05, 5, size))
        halves.append((t, 0.9 * np.exp(-t) + 1.2 * driven(t, drive) + 0.1 * rng.standard_normal(size)))
    return drive, q, *halves


def driven_fit(q, fit, held):
    """p* of least squares in x = q e^-t + p k(t), F = sum of squares of the held-out rows, and dF/dq.

    `fit`, `held`: (data, e^-t, k) each.
    """
    y, decay, k = fit
    p, slope = k @ (y - q * decay) / (k @ k), -k @ decay / (k @ k)
    y, decay, k = held
    miss = y - q * decay - p * k
    return p, miss @ miss, -2 * miss @ (decay + slope * k)


def central_difference(function, theta, direction, h=1e-5):
    """Fourth-order central difference of a function of an array along a direction."""
    steps = [function(theta + k * h * direction) for k in (-2, -1, 1, 2)]
    return (steps[0] - 8 * steps[1] + 8 * steps[2] - steps[3]) / (12 * h)


def project_simplex(y, total=1.0):
    """The nearest point to y on {x >= 0, sum x = total} and its Jacobian in y, I_S - 1 1^T / |S| on the support S."""
    ordered = np.sort(y)[::-1]
    shifts = (np.cumsum(ordered) - total) / np.arange(1, y.size + 1)
    shift = shifts[np.flatnonzero(ordered > shifts)[-1]]
    x = np.maximum(y - shift, 0.0)
    on = (x > 0).astype(float)
    return x, np.diag(on) - np.outer(on, on) / on.sum()


def project_ball(y, radius):
    """The nearest point to y (outside) in |x| <= radius, its Jacobian in y and its derivative in the radius."""
    size = np.linalg.norm(y)
    u = y / size
    return radius * u, radius / size * (np.eye(y.size) - np.outer(u, u)), u


def soft(y, weight):
    """argmin 1/2 |x - y|^2 + weight |x|_1, its Jacobian in y and its derivative in the weight."""
    on = np.abs(y) > weight
    return np.where(on, y - weight * np.sign(y), 0.0), np.diag(on.astype(float)), -np.where(on, np.sign(y), 0.0)


def elastic_net_slope(A, y, x, l1, l2, gradient):
    """(dF/dl1, dF/dl2) from the closed form on the support of x, given the criterion's gradient in x."""
    S = np.flatnonzero(x)
    z = np.linalg.solve(A[:, S].T @ A[:, S] + l2 * np.eye(S.size), gradient[S])
    return -z @ np.sign(x[S]), -z @ x[S]


def wide_elastic_net():
    """A (50, 100), y and the 8-sparse truth: a published cone layer misses both slopes at l1 = 5, l2 = 0.5."""
    rng = np.random.default_rng(0)
    A, truth = rng.standard_normal((50, 100)), np.zeros(100)
    truth[:8] = 3 * rng.standard_normal(8)
    return A, A @ truth + 0.1 * rng.standard_normal(50), truth


def tall_elastic_net():
    """X (60, 30), y, held-out Xv (40, 30), yv: at l1 = .15, l2 = .05 the slopes are (1.43797902, 2.80559080)."""
    rng = np.random.default_rng(0)
    X, w = rng.standard_normal((60, 30)), np.zeros(30)
    w[:6] = 2 * rng.standard_normal(6)
    y = X @ w + 0.5 * rng.standard_normal(60)
    held = rng.standard_normal((40, 30))
    return X, y, held, held @ w + 0.5 * rng.standard_normal(40)


class Identity(ih.LowerLevel):
    """x*(theta) = theta["t"]: F is the criterion itself, for searches. `calls` collects the t of every solve.

    It fails (NotConverged) where `fails(t)`, interrupts (KeyboardInterrupt) at solve number `interrupt`, and misses x*
    by `sloppy` times tol |t| in a direction that changes from call to call, as a stopped iteration may.
    """

    host: ClassVar = True
    keys: ClassVar = ("t",)
    fails: Callable | None = eqx.field(static=True, default=None)
    interrupt: int | None = eqx.field(static=True, default=None)
    sloppy: float = eqx.field(static=True, default=0.0)
    calls: list = eqx.field(static=True, default_factory=list)

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        t = np.asarray(theta["t"], float)
        self.calls.append(t)
        if self.interrupt is not None and len(self.calls) == self.interrupt:
            raise KeyboardInterrupt
        if self.fails is not None and self.fails(t):
            raise ih.NotConverged(f"Identity stopped at 1.0e+00, above tol {tol:.1e}")
        miss = self.sloppy * tol * np.abs(t) * np.cos(37.0 * len(self.calls) + np.arange(t.size).reshape(t.shape))
        return ih.Solution(t + miss, self.sloppy * tol, 1, "Identity converged")

    def linearise(self, solution, theta):
        flat = np.size(theta["t"])
        return ih.Linearisation(
            A=np.eye(flat),
            P=lambda c: c.reshape(np.shape(theta["t"])),
            P_transpose=np.ravel,
            B=lambda d: -np.ravel(d["t"]),
            B_transpose=lambda z: {"t": -z.reshape(np.shape(theta["t"]))},
        )


def diabetes_lasso(seed=None):
    """The lasso on one half of scikit-learn's diabetes data, judged on the other: even/odd rows, or random halves.

    Columns and target are standardised on all rows (ddof 0). Returns the problem, the number of rows n that are fitted
    (weight = n alpha for the loss 1/(2n)) and weight_max. Even/odd: four local minima, the global one near
    alpha 0.00952, F 0.48264116.
    """
    from sklearn.datasets import load_diabetes

    A, y = load_diabetes(return_X_y=True)
    A, y = (A - A.mean(0)) / A.std(0), (y - y.mean()) / y.std()
    rows = np.arange(len(y)) if seed is None else np.random.default_rng(seed).permutation(len(y))
    fit, held = (rows[::2], rows[1::2]) if seed is None else np.split(rows, [len(y) // 2])
    problem = ih.Bilevel(ih.BPDN(A[fit], y[fit]), ih.HeldOut(A[held], y[held]))
    return problem, len(fit), ih.weight_max(A[fit], y[fit])


def least_on_grid(value, low, high, points=1000, refinements=2):
    """The least of a function on a logarithmic grid, each refinement a grid of as many points around the best."""
    for _ in range(refinements + 1):
        grid = np.geomspace(low, high, points)
        values = np.array([value(t) for t in grid])
        best = int(np.argmin(values))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, points - 1)]
    return grid[best], values[best]


def sparse_regression(n, p, k=10, seed=0, noise=1 / 3):
    """A (n, p), y, and half as many held-out rows: k signs in x, noise a fraction of the signal's rms.

    At n 200, p 1000, k 10, seed 0 a public case: weight_max / n = 1.28109619235 and d/da = 14.10525690, 1.295690103,
    -14.48212861 for weight = n a at a = .5, .1, .01 of it.
    """
    rng = np.random.default_rng(seed)
    A, x = rng.standard_normal((n + n // 2, p)), np.zeros(p)
    signs = rng.choice([-1.0, 1.0], k)
    x[rng.choice(p, k, replace=False)] = signs
    clean = A @ x
    y = clean + rng.standard_normal(len(clean)) * np.linalg.norm(clean) / np.sqrt(len(clean)) * noise
    return A[:n], y[:n], A[n:], y[n:]


def l1_closed_form(A, y, l1, l2, support, signs, sample_weight=None, intercept=False):
    """x* on a support with given signs and d x*/d (l1, l2), by QR, certified: the KKT conditions hold or it asserts.

    Of 1/2 sum w r^2 + sum l1 |x| + 1/2 sum l2 x^2, r = A x + b - y; x and the slopes (p or p + 1, p) at full length.
    """
    n, p = A.shape
    l1, l2 = np.broadcast_to(l1, p), np.broadcast_to(l2, p)
    root = np.ones(n) if sample_weight is None else np.sqrt(sample_weight)
    ones = np.ones((n, int(intercept)))
    full = np.hstack([A[:, support], ones]) * root[:, None]
    ridge = np.diag(np.append(np.sqrt(l2[support]), np.zeros(int(intercept))))
    R = np.linalg.qr(np.vstack([full, ridge]), mode="r")

    def solve(rhs):
        return np.linalg.solve(R, np.linalg.solve(R.T, rhs))

    pull = np.append(l1[support] * signs, np.zeros(int(intercept)))
    c = solve(full.T @ (root * y) - pull)
    c = c - solve(full.T @ (full @ c - root * y) + ridge**2 @ c + pull)
    places = np.append(support, np.full(int(intercept), p)).astype(int)
    x = np.zeros(p + int(intercept))
    x[places] = c
    weight = root**2
    residual = A.T @ (weight * (y - A @ x[:p] - (c[-1] if intercept else 0.0))) - l2 * x[:p]
    inactive = np.setdiff1d(np.arange(p), support)
    scale = np.max(np.abs(A.T @ (weight * y)))
    assert np.all(np.sign(c[: len(support)]) == signs)
    assert np.max(np.abs(residual[support] - l1[support] * signs), initial=0.0) <= 1e-12 * scale
    assert np.all(np.abs(residual[inactive]) < l1[inactive])
    along = []
    for slope in (signs, c[: len(support)]):
        full_slope = np.zeros((x.size, p))
        full_slope[np.ix_(places, support)] = -solve(
            np.vstack([np.diag(slope), np.zeros((int(intercept), len(support)))])
        )
        along.append(full_slope)
    return x, *along


def rof_two_levels(sizes, levels, weight, edges=(1.0, 1.0)):
    """The levels of the ROF minimiser of a step of two regions, and their slopes in the weight.

    Each level moves to the other by weight x length of its boundary / its size, until they meet at the mean. `edges`:
    the lengths of the boundary as the lower and the higher region see it.
    """
    sizes, levels, edges = (np.asarray(each, float) for each in (sizes, levels, edges))
    slope = np.sign(levels[::-1] - levels) * edges / sizes
    moved = levels + weight * slope
    if (moved[1] - moved[0]) * (levels[1] - levels[0]) <= 0:
        return np.full(2, sizes @ levels / sizes.sum()), np.zeros(2)
    return moved, slope


def rof_staircase(sizes, levels, weights):
    """Levels of a rising staircase in one dimension under one weight an edge, and their Jacobian (levels, edges)."""
    jacobian = np.zeros((len(sizes), len(weights)))
    for edge in range(len(weights)):
        jacobian[edge, edge], jacobian[edge + 1, edge] = 1 / sizes[edge], -1 / sizes[edge + 1]
    moved = np.asarray(levels, float) + jacobian @ weights
    assert np.all(np.diff(moved) > 0), "the steps have merged: the closed form is another one"
    return moved, jacobian


def huber_pair(y, weight, delta):
    """Two pixels under Huber's norm: their distance shrinks, their mean stays; and the slopes in the weight."""
    gap = y[1] - y[0]
    inner = gap / (1 + 2 * weight / delta)
    apart, slope = (inner, -2 / delta * inner**2 / gap) if inner <= delta else (gap - 2 * weight, -2.0)
    signs = np.array([-0.5, 0.5])
    return np.mean(y) + signs * apart, signs * slope


def flattened_kink(half, weight):
    """|i - half| for i = 0 ... 2 half under l1 of inner second differences: the same kink, flatter; and its slope.

    x = mean + s (|i - half| - mean), s = 1 - 2 weight / sum (|i - half| - mean)^2.
    """
    shape = np.abs(np.arange(2 * half + 1.0) - half)
    centred = shape - shape.mean()
    slope = -2 * centred / (centred @ centred)
    s = 1 - 2 * weight / (centred @ centred)
    return (shape.mean() + s * centred, slope) if s > 0 else (np.full(shape.size, shape.mean()), 0 * slope)


def differences_matrix(shape, boundary="neumann", order=1):
    """First or second differences of a raveled image along every axis, pixel by pixel: (ndim * pixels, pixels)."""
    index = np.arange(np.prod(shape)).reshape(shape)
    D = np.zeros((len(shape), index.size, index.size))
    for axis, size in enumerate(shape):
        for place in np.ndindex(*shape):
            row = D[axis, index[place]]
            row[index[place]] -= order
            for step in (1, -1)[:order]:
                there = list(place)
                there[axis] += step
                if 0 <= there[axis] < size:
                    row[index[tuple(there)]] += 1
                elif boundary == "periodic":
                    there[axis] %= size
                    row[index[tuple(there)]] += 1
                elif boundary == "neumann":
                    row[index[place]] += 1
    return D.reshape(-1, index.size)


def blur_matrix(kernel, shape):
    """Periodic convolution of a raveled image with a kernel centred at size // 2, pixel by pixel."""
    index = np.arange(np.prod(shape)).reshape(shape)
    K = np.zeros((index.size, index.size))
    for place in np.ndindex(*shape):
        for tap in np.ndindex(*kernel.shape):
            there = tuple((p - (t - m // 2)) % n for p, t, m, n in zip(place, tap, kernel.shape, shape, strict=True))
            K[index[place], index[there]] += kernel[tap]
    return K


def least_sum_of_norms(y, terms, K=None, low=-np.inf, high=np.inf, unknowns=None):
    """min 1/2 |K u - y|^2 + sum over terms of sum_g weight_g h(|(D u)_g|), by cvxpy and Clarabel.

    `terms`: (D, weight, labels, delta): labels None for a norm each, else one label a row of D; delta 0 for the norm
    itself. Returns the least value and u.
    """
    import cvxpy as cp

    u = cp.Variable(unknowns or (K.shape[1] if K is not None else y.size))
    cost = 0.5 * cp.sum_squares((u if K is None else K @ u) - y.ravel())
    for D, weight, labels, delta in terms:
        v = D @ u
        if labels is None:
            sizes = cp.abs(v)
        else:
            rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
            assert len({len(each) for each in rows}) == 1, "groups of one size are wanted here"
            sizes = cp.norm(v[np.concatenate(rows)].reshape((len(rows), len(rows[0])), order="C"), 2, axis=1)
        sizes = cp.huber(sizes, delta) / (2 * delta) if delta else sizes
        cost = cost + np.broadcast_to(np.ravel(weight), sizes.shape) @ sizes
    limits = [u >= low] * bool(np.isfinite(low)) + [u <= high] * bool(np.isfinite(high))
    problem = cp.Problem(cp.Minimize(cost), limits)
    tight = {"tol_gap_abs": 1e-9, "tol_gap_rel": 1e-9, "tol_feas": 1e-9}
    problem.solve(solver=cp.CLARABEL, **tight)
    return problem.value, u.value


def camera(n):
    """The photographer at n x n with noise 0.1, and the noisy one."""
    from skimage.data import camera as photograph
    from skimage.transform import resize

    truth = resize(photograph() / 255, (n, n), anti_aliasing=True)
    return truth, truth + 0.1 * np.random.default_rng(0).standard_normal((n, n))
