"""Evidence for a hypergradient: how exact it is, where the nearest kink stands, what differences say."""

from invhyper.certificate.audit import Audit, Comparison, Curve, audit
from invhyper.certificate.interval import Interval, interval
from invhyper.certificate.one_sided import OneSided, margin, one_sided
from invhyper.certificate.path import Path, path
from invhyper.certificate.smoothing import SmoothingPath, smoothing_path

__all__ = [
    "Audit", "Comparison", "Curve", "Interval", "OneSided", "Path", "SmoothingPath",
    "audit", "interval", "margin", "one_sided", "path", "smoothing_path",
]  # fmt: skip
