"""Evidence for a hypergradient: how exact it is, where the nearest kink stands, what differences say."""

from invhyper.certificate.audit import Audit, Comparison, audit

__all__ = ["Audit", "Comparison", "audit"]
