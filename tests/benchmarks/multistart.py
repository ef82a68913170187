"""What do lanes gain or cost? 48 fits of hare and lynx from a Latin hypercube, `chunk` at a time, and `ih.solve` alone.

Warm seconds (least of `rounds`), and the first call with compilation.
Run: python tests/benchmarks/multistart.py [rounds]
"""

import sys
import time

import numpy as np

import invhyper as ih
from invhyper import cli
from invhyper.problem import Solution

STARTS, CHUNKS = 48, (1, 4, 16)


def timed(run, rounds):
    """Seconds of the first call, the least of `rounds` more, and what the last returned."""
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        found = run()
        seconds.append(time.perf_counter() - began)
    return seconds[0], min(seconds[1:]), found


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    study = cli._load(cli.studies()["hare_lynx"], "study")
    data = study.pelts()
    lower, theta = study.calibration(data, ~data.held), study.START.theta
    reach = np.log(study.REACH)
    box = ih.Parameters(**{name: ih.linear(v, v - reach, v + reach) for name, v in study.LOGS.items()})
    starts = ih.latin_hypercube(box, STARTS)
    memo = lower.cold_start(lower.check(theta)).memo

    def alone():
        return [ih.solve(lower, theta, start=Solution(start, memo=memo), throw=False) for start in starts]

    print(f"{'':12}{'first call / s':>16}{'warm / s':>12}{'at the best':>14}")
    first, warm, found = timed(alone, rounds)
    values = np.array([float(each.memo.local.value) for each in found])
    print(f"{'ih.solve':12}{first:16.2f}{warm:12.3f}{np.sum(values < values.min() + 5e-3):14d}")
    for chunk in CHUNKS:
        first, warm, fits = timed(lambda chunk=chunk: ih.fit_from(lower, theta, starts, chunk=chunk), rounds)
        print(f"{f'chunk {chunk}':12}{first:16.2f}{warm:12.3f}{fits.reached():14d}")


if __name__ == "__main__":
    main()
