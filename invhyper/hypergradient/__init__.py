"""Ways of differentiating F(theta) = C(x*(theta), theta)."""

from invhyper.hypergradient.implicit import Implicit as Implicit
from invhyper.hypergradient.layer import layer as layer
from invhyper.hypergradient.unrolled import Unrolled as Unrolled
