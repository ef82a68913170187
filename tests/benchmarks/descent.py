"""What does a tolerance that adapts save `Descent`, beside one fixed at 1e-8?

Lower levels whose cost grows with the accuracy asked, each warm-started: an elastic net by ISTA, a smoothed total
variation by Split Bregman, a logistic regression with three weights by gradient descent, a robust regression by
L-BFGS and Newton steps. Work: lower-level steps summed over all evaluations, at the end and until F, evaluated exactly
at the iterates, is within 1e-6 (relative) of its least; in brackets the products with A or its transpose that
iterative adjoint solves took.
Run: python tests/benchmarks/descent.py [name of a problem ...]
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import zoo  # noqa: E402
from bracket import second_order  # noqa: E402

import invhyper as ih  # noqa: E402
from invhyper.linear_solvers import CG, GMRES, LinearSolver  # noqa: E402

PRODUCTS = [0]


class Counted(LinearSolver):
    """A linear solver whose products with the operator are counted in PRODUCTS."""

    solver: LinearSolver

    def traced(self, operator, rhs, start, tol):
        def product(v):
            jax.debug.callback(_count)
            return operator.mv(v)

        tags = lx.positive_semidefinite_tag if isinstance(self.solver, CG) else ()
        shape = jax.eval_shape(lambda: rhs)
        return self.solver.traced(lx.FunctionLinearOperator(product, shape, tags), rhs, start, tol)


def _count():
    PRODUCTS[0] += 1


def lasso():
    """Diabetes, even rows against odd ones."""
    problem, _, top = zoo.diabetes_lasso()
    weight = ih.Parameters(weight=ih.log(0.3 * top, 1e-5 * top, top))
    return ih.Bilevel(ih.FixedPoint(problem.lower.iteration()), problem.criterion), problem, weight, None


def wide_lasso():
    """Diabetes with second-order features: 64 correlated columns, a random half against the other."""
    problem, top = second_order(0)
    weight = ih.Parameters(weight=ih.log(0.3 * top, 1e-5 * top, top))
    return ih.Bilevel(ih.FixedPoint(problem.lower.iteration()), problem.criterion), problem, weight, None


def smoothed_tv():
    """The camera, 20 x 20, noise 0.1, Huber's total variation with four weights, one a quarter of the image."""
    truth, noisy = zoo.camera(20)
    lower = ih.HuberTV(noisy, delta=0.05)
    iteration = ih.SplitBregman(lower, rho=1.0)
    weights = ih.Parameters(weight=ih.log(np.full((2, 2), 0.02), 1e-4, 1e1))
    criterion = ih.Truth(truth)
    return ih.Bilevel(ih.FixedPoint(iteration), criterion), ih.Bilevel(lower, criterion), weights, GMRES()


def groups():
    """Logistic regression on breast cancer, a weight each for the means, the errors and the worst of its features."""
    A, labels, held, held_labels = zoo.breast_cancer()
    size = 1 / (np.linalg.norm(A, 2) ** 2 / (4 * len(A)) + 1.0)

    def loss(x, theta):
        return jnp.mean(jnp.logaddexp(0.0, -labels * (A @ x))) + 0.5 * jnp.sum(jnp.repeat(theta["l2"], 10) * x**2)

    problem = ih.Bilevel(ih.Smooth(loss, np.zeros(30), step=size), ih.HeldOut(held, held_labels, logistic_loss))
    return problem, ih.Parameters(l2=ih.log(np.full(3, 1e-1), 1e-5, 1.0))


def logistic_loss(score, label):
    return jnp.logaddexp(0.0, -label * score)


def logistic():
    """Those three weights by gradient descent."""
    problem, weights = groups()
    return ih.Bilevel(ih.FixedPoint(problem.lower.iteration()), problem.criterion), problem, weights, CG()


def newton():
    """The same by L-BFGS and Newton steps, whose number hardly depends on the accuracy."""
    problem, weights = groups()
    return problem, problem, weights, None


PROBLEMS = {f.__name__: f for f in (lasso, wide_lasso, smoothed_tv, logistic, newton)}
SEARCHES = {"fixed": ih.Descent(first=1e-8), "adaptive": ih.Descent()}


def run(problem, weights, solver, search):
    """The report of one search, and the products of its adjoint solves."""
    PRODUCTS[0] = 0
    hypergradient = ih.Implicit() if solver is None else ih.Implicit(Counted(solver))
    report = ih.tune(problem, weights, hypergradient, search)
    jax.effects_barrier()
    return report, PRODUCTS[0]


def spent_until(report, values, most):
    """The work at the first iterate whose exact value is at most `most`."""
    return next((step.work for step, value in zip(report.history, values, strict=True) if value <= most), None)


def compare(name):
    problem, exact, weights, solver = PROBLEMS[name]()
    rows = {}
    for label, search in SEARCHES.items():
        report, products = run(problem, weights, solver, search)
        rows[label] = report, products, [exact.value(step.theta, tol=1e-10) for step in report.history]
    least = min(min(values) for _, _, values in rows.values())
    for label, (report, products, values) in rows.items():
        until = spent_until(report, values, least + 1e-6 * abs(least))
        end = exact.value(report.theta, tol=1e-10) / least - 1
        last = report.history[-1]
        yield label, last.solves, last.work, until, products, end, report


def main(*names):
    heads = {"solves": 7, "work": 9, "ratio": 7, "to 1e-6": 9, "ratio ": 7, "adjoint": 9, "excess": 10}
    print(f"{'problem':14}{'tol':10}" + "".join(head.rjust(width) for head, width in heads.items()))
    for name in names or PROBLEMS:
        before = None
        for label, solves, work, until, products, end, report in compare(name):
            before = (work, until) if before is None else before
            ratios = [a / b if a and b else np.nan for a, b in zip((work, until), before, strict=True)]
            cells = f"{work:9d}{ratios[0]:7.2f}{until or -1:9d}{ratios[1]:7.2f}{products:9d}{end:10.1e}"
            print(f"{name:14}{label:10}{solves:7d}{cells}  {report.message[:60]}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
