"""The same run from many starts, in parallel where the executor is."""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from invhyper.problem import NotConverged
from invhyper.report import Report


def multistart(run: Callable, starts: Iterable, executor: Executor) -> list[Report | Exception]:
    """`run(start)` for every start, in the order of the starts; a run that fails leaves its exception in the list.

    **Arguments**: `run`: a function start -> `Report`, such as `lambda theta0: tune(problem, theta0)` (a process pool
    wants it picklable: `functools.partial(tune, problem)`); `starts`: theta trees or `Parameters`; `executor`: any
    `concurrent.futures.Executor` (threads, processes, mpi4py, dask). Raises NotConverged if every run fails.

    >>> import numpy as np, invhyper as ih
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.full(2, 0.8)))
    >>> with ThreadPoolExecutor(1) as pool:
    ...     reports = ih.multistart(lambda start: ih.tune(problem, start), [{"l2": 0.1}, {"l2": 1.0}], pool)
    >>> [round(float(report.theta["l2"]), 4) for report in reports]
    [0.25, 0.25]
    """
    futures = [executor.submit(run, start) for start in starts]
    if not futures:
        raise ValueError("multistart was given no start: at least one is wanted")
    ends = [_end(future) for future in futures]
    if all(isinstance(end, Exception) for end in ends):
        raise NotConverged(f"multistart: all {len(ends)} runs failed; the first: {ends[0]}") from ends[0]
    return ends


def _end(future):
    error = future.exception()
    return future.result() if error is None else error
