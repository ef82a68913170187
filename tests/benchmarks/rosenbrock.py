"""Work and precision on four stiff problems: Rodas5P, diffrax's Kvaerno5, SciPy's Radau and BDF.

Error: the largest relative error of a component at the published end point. Time: the least of repeated warm runs; what
compiling took is printed beside it. SciPy is given jitted f and Jacobian, which return NumPy arrays.
Run: python tests/benchmarks/rosenbrock.py; draws docs/rosenbrock.png.
"""

import sys
import time
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from stiff import STIFF  # noqa: E402

import invhyper as ih  # noqa: E402
from invhyper import plots  # noqa: E402

RTOLS = 10.0 ** -np.arange(4, 11)
PATIENCE = 2.0  # seconds: no further, tighter runs of a method that takes longer


def ours(problem, solver):
    """rtol -> y(end) and steps, compiled once."""
    start, term = jnp.array(problem.start), diffrax.ODETerm(problem.f)

    @jax.jit
    def run(rtol):
        control = diffrax.PIDController(rtol=rtol, atol=rtol * problem.scale)
        done = diffrax.diffeqsolve(
            term, solver, 0.0, problem.end, None, start, stepsize_controller=control, max_steps=100_000,
            adjoint=diffrax.ForwardMode(), throw=False,
        )  # fmt: skip
        return done.ys[-1], jnp.where(done.result == diffrax.RESULTS.successful, done.stats["num_steps"], -1)

    begun = time.perf_counter()
    compiled = run.lower(1e-3).compile()
    return lambda rtol: jax.block_until_ready(compiled(rtol)), time.perf_counter() - begun


def scipys(problem, method):
    start = np.array(problem.start)
    begun = time.perf_counter()
    f = jax.jit(problem.f).lower(0.0, start).compile()
    jacobian = jax.jit(jax.jacfwd(problem.f, 1)).lower(0.0, start).compile()
    took = time.perf_counter() - begun

    def run(rtol):
        done = solve_ivp(
            lambda t, y: np.asarray(f(t, y)), (0, problem.end), start, method, rtol=rtol, atol=rtol * problem.scale,
            jac=lambda t, y: np.asarray(jacobian(t, y)),
        )  # fmt: skip
        return done.y[:, -1], done.t.size - 1 if done.success else -1

    return run, took


METHODS = {
    "Rodas5P": (lambda problem: ours(problem, ih.Rodas5P()), plots.BLUE, "o"),
    "Kvaerno5 (diffrax)": (lambda problem: ours(problem, diffrax.Kvaerno5()), plots.VERMILION, "s"),
    "Radau (SciPy)": (lambda problem: scipys(problem, "Radau"), plots.GREEN, "^"),
    "BDF (SciPy)": (lambda problem: scipys(problem, "BDF"), plots.ORANGE, "D"),
}


def measure(problem):
    """{method: (rows (rtol, error, seconds, steps), seconds of compilation)}; the methods take turns, twice."""
    made = {label: make(problem) for label, (make, _, _) in METHODS.items()}
    rows = {label: {} for label in METHODS}
    for label in [*METHODS] * 2:
        for rtol in RTOLS:
            least, begun = rows[label].get(rtol, (0, 0, np.inf))[2], time.perf_counter()
            while True:
                before = time.perf_counter()
                y, steps = made[label][0](rtol)
                least = min(least, time.perf_counter() - before)
                if time.perf_counter() - begun > PATIENCE / 8:
                    break
            if steps >= 0:
                rows[label][rtol] = rtol, problem.error(y), least, int(steps)
            if least > PATIENCE:
                break
    return {label: ([*rows[label].values()], compiled) for label, (_, compiled) in made.items()}


def draw(results):
    figure, grid = plots.canvas(1, 4, size=(12.8, 4.0), sharey=True)
    for axes, (name, found) in zip(grid[0], results.items(), strict=True):
        for label, (rows, _) in found.items():
            _, colour, marker = METHODS[label]
            _, errors, seconds, _ = np.array(rows).T
            main = label == "Rodas5P"
            axes.plot(
                errors, 1e3 * seconds, marker=marker, color=colour, label=label, ms=6 if main else 5,
                lw=2.6 if main else 1.5, zorder=4 if main else 3, mec="white", mew=0.7,
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="relative error at the end", xlim=(2e-2, 1e-13))
        axes.set_title(f"{name}, n = {len(STIFF[name].start)}", loc="left", fontweight="bold")
        axes.set_xticks(10.0 ** -np.arange(3, 13, 3))
        axes.minorticks_off()
    grid[0, 0].set_ylabel("run time, ms")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=10)
    return figure


def milliseconds(rows, error):
    """Run time at that error, between the runs on both sides of it; NaN outside."""
    _, errors, seconds, _ = np.array(rows)[::-1].T
    return 1e3 * np.exp(np.interp(np.log(error), np.log(errors), np.log(seconds), np.nan, np.nan))


def main():
    results = {}
    print(f"{'problem':14}{'method':20}{'compile s':>10}{'rtol':>8}{'error':>10}{'ms':>10}{'steps':>8}")
    for name, problem in STIFF.items():
        results[name] = measure(problem)
        for label, (rows, compiled) in results[name].items():
            for rtol, error, seconds, steps in rows:
                line = f"{name:14}{label:20}{compiled:10.2f}{rtol:8.0e}{error:10.1e}{1e3 * seconds:10.2f}{steps:8d}"
                print(line, flush=True)
    print(f"\nms at an error of 1e-6 and 1e-8\n{'':20}" + "".join(f"{name:>20}" for name in results))
    for label in METHODS:
        at = [[milliseconds(found[label][0], error) for error in (1e-6, 1e-8)] for found in results.values()]
        print(f"{label:20}" + "".join(f"{loose:12.2f}{tight:8.2f}" for loose, tight in at))
    plots.save(draw(results), Path(__file__).resolve().parents[2] / "docs" / "rosenbrock.png")


if __name__ == "__main__":
    main()
