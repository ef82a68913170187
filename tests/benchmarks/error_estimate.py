"""The estimate of a hypergradient's error beside the error: `python tests/benchmarks/error_estimate.py [seeds]`."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import error_families  # noqa: E402


def main(seeds: int = 30):
    """One line a family: qualifying cases, the share within a factor of two, quantiles of the ratio, the bound."""
    print(f"{'family':16}{'cases':>6}{'in [.5, 2]':>12}{'ratio: least':>14}{'median':>9}{'most':>9}", end="")
    print(f"{'missed, unsaid':>16}{'said, within':>14}{'bound / error: least':>22}{'median':>10}")
    for family in (*error_families.FAMILIES, "seed ODE"):
        cases = error_families.all_cases(family, range(seeds))
        known = [case for case in cases if case.qualifies]
        ratios = np.array([case.ratio for case in known])
        unsaid = sum(not case.good and case.linear for case in cases if case.error >= 1e-10)
        wolf = sum(case.good and not case.linear for case in known)
        bounds = [case.bound_ratio for case in cases if case.bound_ratio is not None]
        least, most = ratios.min(), ratios.max()
        line = f"{family:16}{len(known):6d}{np.mean([case.good for case in known]):12.1%}{least:14.3f}"
        line += f"{np.median(ratios):9.3f}{most:9.3f}{unsaid:16d}{wolf:14d}"
        print(line + (f"{min(bounds):22.1e}{np.median(bounds):10.1e}" if bounds else ""))


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
