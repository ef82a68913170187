"""Linear maps."""

from invhyper.operators.blur import Blur as Blur
from invhyper.operators.differences import Differences as Differences
from invhyper.operators.identity import Identity as Identity
from invhyper.operators.mask import Mask as Mask
from invhyper.operators.operator import Operator as Operator
from invhyper.operators.operator import check_adjoint as check_adjoint
from invhyper.operators.sparse import Sparse as Sparse
