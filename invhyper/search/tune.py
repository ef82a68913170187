"""The front door: `tune` runs a search and ends in a Report."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import PyTree

from invhyper import tree
from invhyper.bilevel import Bilevel
from invhyper.hypergradient.implicit import Implicit
from invhyper.parameters import Parameters
from invhyper.report import Report, provenance
from invhyper.search.bracket import Bracket
from invhyper.search.lbfgsb import LBFGSB
from invhyper.search.objective import Ended, Failed, Objective, Search


def tune(
    problem: Bilevel,
    theta0: Parameters | PyTree,
    hypergradient: Callable | None = None,
    search: Search | None = None,
    *,
    watch: Sequence[Callable] = (),
    tol: float | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    solves: int | None = None,
    lower_tol: float = 1e-8,
    seed: int | None = None,
) -> Report:
    """The theta that minimises F, by a search that follows hypergradients.

        minimise over theta   F(theta) = C(x*(theta), theta)

    **Arguments**: `theta0`: the start, as `Parameters` (with scales and bounds) or as a plain tree (linear scale, the
    lower level's own bounds); `hypergradient`: `Implicit()` by default, or `Unrolled(...)`; `search`: None takes
    `Bracket()` for one scalar with finite bounds, else `LBFGSB()`; `watch`: callables that are given each `Step` (one
    with a method `finish(report)` is told the end); `tol`: the projected gradient on the search scale at which the
    search ends, relative to the size of F at the start (None: 1e-6); `steps`, `seconds`, `solves`: budgets of
    evaluations, time and lower-level solves (failed ones count), looked at before each solve; `lower_tol`: tolerance of
    the lower level; `seed`: of the caller's data, for the record only.

    Every evaluation starts from the solution, the stratum and the adjoint of the nearest kept one. The point returned
    is the best that was evaluated; `report.message` says how the search ended. A budget, Ctrl-C or a lower level that
    fails on the way ends it with the best so far; what fails at the very first point is raised.

    Raises ValueError for a bad theta0, tol or budget; `NotConverged` if the lower level fails at theta0.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.full(2, 0.8)))
    >>> report = ih.tune(problem, ih.Parameters(l2=ih.log(1.0, 1e-6, 1e2)))
    >>> round(float(report.theta["l2"]), 6)
    0.25
    """
    if not isinstance(problem, Bilevel):
        raise TypeError(f"tune wants a Bilevel(lower, criterion) first; it was given {type(problem).__name__}")
    parameters = as_parameters(problem, theta0)
    hypergradient = Implicit() if hypergradient is None else hypergradient
    search = default_search(parameters) if search is None else search
    if not isinstance(search, Search):
        raise TypeError(f"tune wants a search such as LBFGSB(); it was given {search!r}")
    watch = (watch,) if callable(watch) else tuple(watch)
    positive = {"tol": tol, "steps": steps, "seconds": seconds, "solves": solves, "lower_tol": lower_tol}
    for name, value in positive.items():
        if value is not None and not value > 0:
            raise ValueError(f"tune {name} = {value!r}: a positive number is wanted")
    objective = Objective(
        problem,
        parameters,
        hypergradient,
        watch=watch,
        tol=tol,
        steps=steps,
        seconds=seconds,
        solves=solves,
        lower_tol=lower_tol,
    )
    report = None
    try:
        message = _run(search, objective)
        best = objective.best
        report = Report(
            theta=best.theta,
            value=best.value,
            solution=objective.best_evaluation.solution,
            certificate=best.certificate,
            history=objective.history,
            provenance=provenance(search=search, hypergradient=hypergradient, problem=problem, seed=seed),
            message=message,
            parameters=parameters,
        )
    finally:
        for each in watch:
            if hasattr(each, "finish"):
                each.finish(report)
    return report


def _run(search: Search, objective: Objective) -> str:
    try:
        return search.run(objective)
    except Ended as end:
        return str(end)
    except Failed as failure:
        return f"the lower level failed, the best point before that is returned: {failure}"
    except KeyboardInterrupt:
        if objective.best is None:
            raise
        return f"interrupted after {len(objective.history)} steps; the best so far is returned"


def as_parameters(problem: Bilevel, theta0: Parameters | PyTree) -> Parameters:
    """theta0 as Parameters whose start the lower level accepts; a plain tree gets the lower level's bounds."""
    if isinstance(theta0, Parameters):
        problem.check(theta0.theta)
        return theta0
    theta = tree.to_numpy(problem.check(theta0))
    return Parameters.plain(theta, problem.lower.bounds(theta))


def default_search(parameters: Parameters) -> Search:
    """Bracket for one scalar between finite bounds, else LBFGSB."""
    lower, upper = parameters.bounds
    if parameters.size == 1 and np.all(np.isfinite(lower)) and np.all(np.isfinite(upper)):
        return Bracket()
    return LBFGSB()
