"""Evidence for a hypergradient: how exact it is, where the nearest kink stands, what differences say."""

from invhyper.certificate.audit import Audit, Comparison, audit
from invhyper.certificate.interval import Interval, interval
from invhyper.certificate.one_sided import OneSided, one_sided

__all__ = ["Audit", "Comparison", "Interval", "OneSided", "audit", "interval", "one_sided"]
