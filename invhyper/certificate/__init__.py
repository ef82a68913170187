"""Evidence for a hypergradient: how exact it is, where the nearest kink stands, what differences say."""

from invhyper.certificate.audit import Audit, Comparison, Curve, audit
from invhyper.certificate.smoothing import SmoothingPath, smoothing_path

__all__ = ["Audit", "Comparison", "Curve", "SmoothingPath", "audit", "smoothing_path"]
