"""What do lanes gain or cost? 48 fits of hare and lynx from a Latin hypercube, `chunk` at a time.

Processor seconds of a warm call, least of `rounds`, the chunks interleaved so that other work disturbs all alike.
Run: python tests/benchmarks/multistart.py [rounds]
"""

import sys
import time

import numpy as np

import invhyper as ih
from invhyper import cli

STARTS, CHUNKS = 48, (1, 4, 16)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    study = cli._load(cli.studies()["hare_lynx"], "study")
    data = study.pelts()
    lower, theta = study.calibration(data, ~data.held), study.START.theta
    reach = np.log(study.REACH)
    box = ih.Parameters(**{name: ih.linear(v, v - reach, v + reach) for name, v in study.LOGS.items()})
    starts = ih.latin_hypercube(box, STARTS)
    for chunk in CHUNKS:
        ih.fit_from(lower, theta, starts[:chunk], chunk=chunk)
    seconds = {chunk: [] for chunk in CHUNKS}
    for _ in range(rounds):
        for chunk in CHUNKS:
            began = time.process_time()
            fits = ih.fit_from(lower, theta, starts, chunk=chunk)
            seconds[chunk].append(time.process_time() - began)
    print(f"{'chunk':>8}{'seconds':>10}")
    for chunk in CHUNKS:
        print(f"{chunk:8d}{min(seconds[chunk]):10.2f}")
    print(fits.summary())


if __name__ == "__main__":
    main()
