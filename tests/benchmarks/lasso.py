"""Seconds of a lasso hypergradient against a lower bound: celer, then one solve on the support in NumPy.

Run with the `bench` extra: `python tests/benchmarks/lasso.py`, with OPENBLAS_NUM_THREADS=1 where others use the cores.
The lower bound takes celer at the loosest tolerance whose gradient is right to 1e-4 when read off its own coefficients;
the polished line lets it stop earlier and repairs x by a solve on the support it found. Ours is the whole cold call
`Implicit()(problem, theta)`, right to rounding.
"""

import time

import numpy as np
import scipy.sparse
from celer import celer_path

import invhyper as ih

TOLERANCES = 10.0 ** -np.arange(2, 13)


def problem(n, p, k=10, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n + n // 2, p))
    x = np.zeros(p)
    signs = rng.choice([-1.0, 1.0], k)
    x[rng.choice(p, k, replace=False)] = signs
    clean = A @ x
    y = clean + rng.standard_normal(len(clean)) * np.linalg.norm(clean) / np.sqrt(len(clean)) / 3
    return np.asfortranarray(A[:n]), y[:n], A[n:], y[n:]


def celer(A, y, A_val, y_val, weight, tol, polish):
    x = celer_path(A, y, "lasso", alphas=[weight / len(y)], tol=tol, max_epochs=100_000)[1][:, 0]
    S = np.flatnonzero(x)
    columns, signs = A[:, S], np.sign(x[S])
    gram = columns.T @ columns
    values = np.linalg.solve(gram, columns.T @ y - weight * signs) if polish else x[S]
    validation = A_val[:, S]
    slope = validation.T @ (validation @ values - y_val) * 2 / len(y_val)
    return -signs @ np.linalg.solve(gram, slope)


def best(call, repeats):
    """The least of the seconds taken, and what was returned."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def loosest(data, weight, exact, polish):
    """celer's loosest tolerance that is right to 1e-4; support systems that are singular count as wrong."""
    for tol in TOLERANCES:
        try:
            gradient = celer(*data, weight, tol, polish)
        except np.linalg.LinAlgError:
            continue
        if abs(gradient / exact - 1) <= 1e-4:
            return tol
    return TOLERANCES[-1]


def dense():
    names = ("p", "weight", "|S|", "celer ms", "polished", "ours ms", "ours/celer", "polished/celer")
    print("".join(f"{name:>15}" for name in names))
    for n, p in ((200, 1000), (500, 5000)):
        data = problem(n, p)
        lower, criterion = ih.BPDN(*data[:2]), ih.HeldOut(*data[2:])
        top = ih.weight_max(*data[:2])
        bilevel = ih.Bilevel(lower, criterion)
        ih.Implicit()(bilevel, {"weight": 0.9 * top})
        for part in (0.5, 0.1, 0.01):
            weight = part * top
            exact = float(ih.Implicit()(bilevel, {"weight": weight}).gradient["weight"])
            tols = [loosest(data, weight, exact, polish) for polish in (False, True)]
            seconds = {"celer": np.inf, "polished": np.inf, "ours": np.inf}
            for _ in range(40 if p < 5000 else 6):
                for name, tol, polish in (("celer", tols[0], False), ("polished", tols[1], True)):
                    seconds[name] = min(seconds[name], best(lambda: celer(*data, weight, tol, polish), 1)[0])  # noqa: B023
                took, found = best(lambda: ih.Implicit()(bilevel, {"weight": weight}), 1)  # noqa: B023
                seconds["ours"] = min(seconds["ours"], took)
            size = np.count_nonzero(found.solution.x)
            a, b, c = (1e3 * seconds[name] for name in ("celer", "polished", "ours"))
            print(f"{p:>15}{part:>15}{size:>15}{a:>15.1f}{b:>15.1f}{c:>15.1f}{c / a:>15.2f}{b / a:>15.2f}", flush=True)


def sparse(n=20_000, p=100_000, density=1e-4):
    rng = np.random.default_rng(0)
    A = scipy.sparse.random_array((n, p), density=density, format="csr", rng=rng, data_sampler=rng.standard_normal)
    x = np.where(rng.random(p) < 1e-3, rng.standard_normal(p), 0.0)
    y = A @ x + 0.1 * rng.standard_normal(n)
    half = n // 2
    lower, criterion = ih.BPDN(A[:half], y[:half]), ih.HeldOut(A[half:], y[half:])
    top = ih.weight_max(A[:half], y[:half])
    for part in (0.5, 0.1, 0.01):
        took, found = best(lambda: ih.Implicit()(ih.Bilevel(lower, criterion), {"weight": part * top}), 2)  # noqa: B023
        size = np.count_nonzero(found.solution.x)
        print(f"sparse {n} x {p}, weight {part}: |S| {size}, {took:.2f} s, lower residual {found.solution.error:.1e}")


def main():
    dense()
    sparse()


if __name__ == "__main__":
    main()
