"""Linear maps."""

from invhyper.operators.sparse import Sparse as Sparse
