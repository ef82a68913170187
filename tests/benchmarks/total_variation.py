"""Seconds, steps and memory of total-variation reconstructions and their hypergradients.

Run `OPENBLAS_NUM_THREADS=1 python tests/benchmarks/total_variation.py`. The image is the camera of scikit-image, n x n,
with noise of 0.1, the weight 0.08 and the criterion 1/2 |x - truth|^2. Seconds are of the processor, the least of a few
runs, so that what else the machine does weighs less; the FISTA is a plain one, written here, in place.
"""

import time
import tracemalloc

import numpy as np
import scipy.sparse.linalg as ssl
from skimage.data import camera
from skimage.transform import resize

import invhyper as ih

WEIGHT = 0.08
OPTIMUM = {False: 1667.65851, True: 1604.04482}  # anisotropic, isotropic; 512 x 512


def data(n, noise=0.1, blur=None):
    truth = resize(camera() / 255, (n, n), anti_aliasing=True)
    image = truth if blur is None else blur.mv(truth)
    return truth, image + noise * np.random.default_rng(0).standard_normal((n, n))


def seconds(call, repeats=1):
    """The least of the processor's seconds, and what the last call returned."""
    least = np.inf
    for _ in range(repeats):
        start = time.process_time()
        result = call()
        least = min(least, time.process_time() - start)
    return least, result


# --- ROF: time to a relative accuracy of the objective -------------------------------------------------------------


def gradient(u, p):
    np.subtract(u[1:], u[:-1], out=p[0, :-1])
    np.subtract(u[:, 1:], u[:, :-1], out=p[1, :, :-1])
    return p


def divergence(p, u):
    """D^T p for p with zeros on the last row and column."""
    u[0] = 0.0
    u[1:] = p[0, :-1]
    u[:-1] -= p[0, :-1]
    u[:, 1:] += p[1, :, :-1]
    u[:, :-1] -= p[1, :, :-1]
    return u


def objective(u, y, isotropic):
    d = gradient(u, np.zeros((2, *u.shape)))
    tv = np.sqrt((d * d).sum(axis=0)).sum() if isotropic else np.abs(d).sum()
    return 0.5 * np.sum((u - y) ** 2) + WEIGHT * tv


def fista(y, isotropic, goal):
    """Dual FISTA with restart; (steps, seconds) to the relative accuracy, the objective off the clock."""
    p, u, norm = np.zeros((2, *y.shape)), np.empty_like(y), np.empty_like(y)
    q, g, new = p.copy(), p.copy(), p.copy()
    t, steps, spent = 1.0, 0, 0.0
    while True:
        start = time.process_time()
        for _ in range(5):
            np.subtract(y, divergence(q, u), out=u)
            gradient(u, g)
            g /= 8.0
            g += q
            if isotropic:
                np.multiply(g[0], g[0], out=norm)
                norm += g[1] ** 2
                np.sqrt(norm, out=norm)
                norm /= WEIGHT
                np.divide(g, np.maximum(norm, 1.0, out=norm), out=new)
            else:
                np.clip(g, -WEIGHT, WEIGHT, out=new)
            np.subtract(new, p, out=g)
            q -= new
            t = 1.0 if np.vdot(q, g) > 0 else t
            following = (1 + np.sqrt(1 + 4 * t * t)) / 2
            g *= (t - 1) / following
            np.add(new, g, out=q)
            p, new, t = new, p, following
        spent += time.process_time() - start
        steps += 5
        if objective(y - divergence(p, u), y, isotropic) <= OPTIMUM[isotropic] * (1 + goal):
            return steps, spent


def split_bregman(y, isotropic, goals):
    """(steps, seconds) to each relative accuracy."""
    start = time.process_time()
    lower = ih.TotalVariation(y, isotropic=isotropic)
    theta, iteration = {"weight": np.asarray(WEIGHT)}, lower.iteration()
    state, rho = iteration.init(theta), [float(rho) for rho in iteration.penalties(theta)]
    process, found = iteration.on_host(theta, state, rho, lower.forward_at(theta)), []
    spent = time.process_time() - start
    for goal in goals:
        while objective(process.state[0], y, isotropic) > OPTIMUM[isotropic] * (1 + goal):
            start = time.process_time()
            process.run(process.every)
            spent += time.process_time() - start
        found.append((process.steps, spent))
    return found


def rof(n=512, repeats=3):
    _, y = data(n)
    print("ROF, 512 x 512    FISTA to 1e-4   Split Bregman to 1e-4    ratio    Split Bregman to 1e-8")
    for isotropic in (False, True):
        split_bregman(y, isotropic, (1e-1,))
        ours = min((split_bregman(y, isotropic, (1e-4, 1e-8)) for _ in range(repeats)), key=lambda found: found[0][1])
        plain = min((fista(y, isotropic, 1e-4) for _ in range(repeats)), key=lambda found: found[1])
        (k, s), (k8, s8) = ours
        kind = "isotropic" if isotropic else "anisotropic"
        print(f"{kind:<14}{plain[0]:>5} in {plain[1]:.2f} s{k:>12} in {s:.2f} s{s / plain[1]:>13.2f}", end="")
        print(f"{k8:>16} in {s8:.2f} s", flush=True)


# --- Hypergradients ------------------------------------------------------------------------------------------------


def adjoint(lower, truth, solution, theta):
    """The hypergradient of 1/2 |x - truth|^2, given the solution."""
    linearisation = lower.linearise(solution, theta)
    z = linearisation.solve(linearisation.P_transpose(solution.x - truth), True)
    return {key: -value for key, value in linearisation.B_transpose(z).items()}


def anisotropic(sizes=(64, 128, 256, 512)):
    names = ("n", "dL/dweight", "regions", "steps", "cold s", "same s", "1 % s", "adjoint s", "adjoint/solve", "MiB")
    print("".join(f"{name:>15}" for name in (*names, "pixels/one")))
    for n in sizes:
        truth, y = data(n)
        lower, theta = ih.TotalVariation(y), {"weight": np.asarray(WEIGHT)}
        problem, repeats = ih.Bilevel(lower, ih.Truth(truth)), 5 if n < 512 else 2
        ih.Implicit()(problem, theta)
        solve, solution = seconds(lambda: ih.solve(lower, theta), repeats)  # noqa: B023
        whole, cold = seconds(lambda: ih.Implicit()(problem, theta), repeats)  # noqa: B023
        same, _ = seconds(lambda: ih.Implicit()(problem, theta, warm=cold), repeats)  # noqa: B023
        near, _ = seconds(lambda: ih.Implicit()(problem, {"weight": 1.01 * WEIGHT}, warm=cold), repeats)  # noqa: B023
        one, slope = seconds(lambda: adjoint(lower, truth, solution, theta), 10)  # noqa: B023
        tracemalloc.start()
        held = tracemalloc.get_traced_memory()[0]
        adjoint(lower, truth, solution, theta)
        extra = (tracemalloc.get_traced_memory()[1] - held) / 2**20
        tracemalloc.stop()
        pixels = {"weight": np.full((n, n), WEIGHT)}
        there = ih.solve(lower, pixels, start=solution)
        many, slopes = seconds(lambda: adjoint(lower, truth, there, pixels), 10)  # noqa: B023
        np.testing.assert_allclose(slopes["weight"].sum(), slope["weight"], rtol=1e-9)
        row = (n, f"{float(cold.gradient['weight']):.9f}", np.unique(solution.memo.polished.regions.labels).size)
        row += (solution.steps, *(f"{s:.3f}" for s in (whole, same, near, one)), f"{one / solve:.3f}")
        print("".join(f"{entry:>15}" for entry in (*row, f"{extra:.1f}", f"{many / one:.2f}")), flush=True)


def others():
    """Norms of several entries: cold, at the same theta again, and 1 % further; `!` where 1e-8 was not reached."""
    print(f"{'':<20}{'n':>6}{'cold s':>12}{'same s':>12}{'1 % s':>12}   result")
    rotated = lambda y: ih.TotalVariation(y, isotropic=True)  # noqa: E731
    isotropic = (("isotropic TV", n, rotated, {"weight": 0.08}) for n in (64, 128))
    second = (("TGV", n, ih.TGV, {"weight": 0.08, "weight2": 0.12}) for n in (32, 64))
    for name, n, make, theta in (*isotropic, *second):
        truth, y = data(n)
        problem, cold, times = ih.Bilevel(make(y), ih.Truth(truth)), None, ""
        nearby = {key: 1.01 * value for key, value in theta.items()}
        for there in (theta, theta, nearby):
            took, found = seconds(lambda: ih.Implicit()(problem, there, warm=cold, throw=False))  # noqa: B023
            cold = found if cold is None else cold
            times += f"{took:>10.2f}" + (" !" if found.solution.error > 1e-8 else "  ")
        print(f"{name:<20}{n:>6}{times}   {cold.solution.result}", flush=True)


def deblurring(n=64, weight=0.005, h=1e-7):
    """Anisotropic TV with K a Gaussian blur, all periodic: the adjoint by conjugate gradients on the regions."""
    blur = ih.Blur(width=1.5, boundary="periodic").at((n, n))
    truth, y = data(n, 0.02, blur)
    lower = ih.TotalVariation(y, forward=blur, boundary="periodic")
    problem, theta = ih.Bilevel(lower, ih.Truth(truth)), {"weight": np.asarray(weight)}
    took, found = seconds(lambda: ih.Implicit()(problem, theta))
    ends = [ih.solve(lower, {"weight": np.asarray(weight + s)}, start=found.solution) for s in (h, -h)]
    values = [0.5 * np.sum((end.x - truth) ** 2) for end in ends]
    same = np.array_equal(*(end.memo.polished.regions.labels for end in ends))
    linearisation, count = lower.linearise(found.solution, theta), []
    rhs = linearisation.P_transpose(found.solution.x - truth)
    z, _ = ssl.cg(linearisation.A, rhs, rtol=1e-8, callback=count.append)
    slope, difference = -float(linearisation.B_transpose(z)["weight"]), (values[0] - values[1]) / (2 * h)
    print(f"deblurring {n} x {n}: {took:.1f} s, {found.solution.result}")
    print(
        f"  slope {slope:.9g} in {len(count)} steps of CG; differences {difference:.9g} (h = {h}, same regions: {same})"
    )
    print(
        f"  relative difference {abs(slope / difference - 1):.1e}; by the factor {float(found.gradient['weight']):.9g}"
    )


def main():
    rof()
    anisotropic()
    others()
    deblurring()


if __name__ == "__main__":
    main()
