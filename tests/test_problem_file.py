"""Problem files: what they say is what is built, and what is wrong with them is said with file and key."""

import numpy as np
import pytest
import scipy.sparse

import invhyper as ih
from invhyper import problem_file

rng = np.random.default_rng(1)
A, y = rng.standard_normal((12, 3)), rng.standard_normal(12)

PARTS = {
    "data": 'A = "rows.npz"\ny = "rows.npz"',
    "model": 'name = "Ridge"',
    "weights.l2": "start = 1.0\nlower = 1e-3\nupper = 1e3",
    "validation": "holdout = 0.25\nseed = 2",
}


@pytest.fixture
def write(tmp_path):
    """A problem file from PARTS with changes (None leaves a part out), beside data files."""
    np.savez(tmp_path / "rows.npz", A=A, y=y)
    np.savez(tmp_path / "other.npz", X=A, z=y, text=np.array(["a"]), short=y[:-1], holed=np.where(y > 0, np.nan, y))
    np.save(tmp_path / "A.npy", A)
    np.save(tmp_path / "y.npy", y[:, None])
    np.savetxt(tmp_path / "plain.csv", A, delimiter=",")
    np.savetxt(tmp_path / "y.csv", y)
    np.savetxt(tmp_path / "table.csv", np.c_[A, y], delimiter=",", header="age,bmi,map,target", comments="")
    scipy.sparse.save_npz(tmp_path / "sparse.npz", scipy.sparse.csr_array(A))

    def write(**changes):
        parts = {**PARTS, **{name.replace("__", "."): text for name, text in changes.items()}}
        path = tmp_path / "problem.toml"
        path.write_text("\n".join(f"[{name}]\n{text}" for name, text in parts.items() if text is not None))
        return path

    return write


def test_holdout_rows_are_those_of_the_seed(write):
    given = problem_file.read(write())
    order = np.random.default_rng(2).permutation(12)
    held, kept = np.sort(order[:3]), np.sort(order[3:])
    assert np.array_equal(given.problem.lower.A, A[kept]) and np.array_equal(given.problem.lower.y, y[kept])
    assert np.array_equal(given.problem.criterion.A, A[held]) and np.array_equal(given.problem.criterion.y, y[held])
    assert given.seed == 2
    assert given.weights.theta == {"l2": 1.0}


@pytest.mark.parametrize(
    "data",
    [
        'A = "A.npy"\ny = "y.npy"',
        'A = "other.npz#X"\ny = "other.npz#z"',
        'A = "plain.csv"\ny = "y.csv"',
        'A = "table.csv"\ny = "table.csv#target"',
    ],
)
def test_every_kind_of_file_gives_the_same_rows(write, data):
    given = problem_file.read(write(data=data))
    same = problem_file.read(write())
    np.testing.assert_allclose(given.problem.lower.A, same.problem.lower.A, rtol=1e-15)
    np.testing.assert_allclose(given.problem.lower.y, same.problem.lower.y, rtol=1e-15)


def test_sparse_rows_stay_sparse(write):
    A_read, y_read = problem_file._rows(
        problem_file.Section(write(), "data", {"A": "sparse.npz", "y": "y.npy"}, ("A", "y"))
    )
    assert scipy.sparse.issparse(A_read) and np.array_equal(A_read.toarray(), A) and y_read.shape == (12,)


def test_folds_and_files_of_validation_rows(write):
    folds = problem_file.read(write(validation="folds = 4\nseed = 1"))
    assert len(folds.problem.lower.lowers) == 4
    assert folds.problem.value({"l2": 1.0}) == ih.KFold(ih.Ridge, A, y, folds=4, seed=1).value({"l2": 1.0})
    files = problem_file.read(write(validation='A = "A.npy"\ny = "y.npy"'))
    assert files.problem.lower.A.shape == (12, 3) and np.array_equal(files.problem.criterion.A, A)
    assert files.seed is None


def test_scales_one_weight_a_column_and_the_search(write):
    given = problem_file.read(
        write(
            weights__l2='start = 2.0\nlower = 0.5\nupper = 8.0\nscale = "linear"\neach = true',
            search='method = "LBFGSB"\nsteps = 7\nseconds = 60.0\ntol = 1e-5',
        )
    )
    assert given.weights.start.tolist() == [2.0, 2.0, 2.0]
    assert given.weights.bounds[1].tolist() == [8.0, 8.0, 8.0]
    assert given.search == ih.LBFGSB() and given.options == {"steps": 7, "seconds": 60.0, "tol": 1e-5}


BAD = [
    ({"data": None}, "[data] is missing"),
    ({"data": 'A = "rows.npz"'}, "data.y is missing"),
    ({"data": 'A = "rows.npz"\ny = 3'}, "data.y = 3"),
    ({"data": 'A = "nothing.npz"\ny = "rows.npz"'}, "there is no file"),
    ({"data": 'A = "problem.toml"\ny = "rows.npz"'}, ".npz, .npy or .csv"),
    ({"data": 'A = "other.npz"\ny = "y.npy"'}, "it holds 'X', 'z'"),
    ({"data": 'A = "A.npy#X"\ny = "y.npy"'}, "leave '#X' out"),
    ({"data": 'A = "table.csv"\ny = "table.csv#targte"'}, "did you mean 'target'?"),
    ({"data": 'A = "plain.csv"\ny = "plain.csv#y"'}, "no header line"),
    ({"data": 'A = "other.npz#X"\ny = "other.npz#text"'}, "real numbers are wanted"),
    ({"data": 'A = "other.npz#X"\ny = "other.npz#holed"'}, "NaN or infinity"),
    ({"data": 'A = "other.npz#X"\ny = "other.npz#short"'}, "A has shape (12, 3) and y has shape (11,)"),
    ({"data": 'A = "rows.npz"\ny = "rows.npz"\nw = "rows.npz"'}, "unknown key 'w'"),
    ({"model": 'name = "Rigde"'}, "did you mean 'Ridge'?"),
    ({"model": 'nme = "Ridge"'}, "unknown key 'nme' in [model]: did you mean 'name'?"),
    ({"model": "name = 3"}, "model.name = 3"),
    ({"model": ""}, "model.name is missing"),
    ({"weights__l2": None}, "[weights] is missing"),
    ({"weights__l1": "start = 1.0"}, "unknown key 'l1' in [weights]: did you mean 'l2'?"),
    ({"weights__l2": "lower = 1.0\nupper = 2.0"}, "weights.l2.start is missing"),
    ({"weights__l2": "start = 1.0\nupper = 2.0"}, "weights.l2.lower is missing"),
    ({"weights__l2": 'start = "big"\nlower = 1.0\nupper = 2.0'}, "weights.l2.start = 'big'"),
    ({"weights__l2": "start = true\nlower = 0.1\nupper = 2.0"}, "weights.l2.start = True"),
    ({"weights__l2": "start = nan\nlower = 0.1\nupper = 2.0"}, "weights.l2.start = nan"),
    ({"weights__l2": "start = 5.0\nlower = 0.1\nupper = 2.0"}, "[weights.l2]: log start = 5 is outside its bounds"),
    ({"weights__l2": "start = -1.0\nlower = 0.1\nupper = 2.0"}, "a positive number is wanted"),
    ({"weights__l2": "start = 1.0\nlower = 3.0\nupper = 2.0"}, "lower < upper is wanted"),
    ({"weights__l2": 'start = 1.0\nlower = 0.1\nupper = 2.0\nscale = "lgo"'}, "did you mean 'log'?"),
    ({"weights__l2": "start = 1.0\nlower = 0.1\nupper = 2.0\neach = 1"}, "true or false is wanted"),
    ({"weights__l2": None, "weights": "l2 = 1.0"}, "weights.l2 is 1.0: a table is wanted"),
    ({"validation": None}, "[validation] is missing"),
    ({"validation": ""}, "none is given"),
    ({"validation": "holdout = 0.2\nfolds = 3"}, "both 'holdout', 'folds' are given"),
    ({"validation": "holdout = 1.5"}, "validation.holdout = 1.5: a number above 0 and below 1 is wanted"),
    ({"validation": "folds = 13"}, "validation.folds = 13"),
    ({"validation": "folds = 2.5"}, "a whole number"),
    ({"validation": "folds = 3\nseed = -1"}, "validation.seed = -1"),
    ({"validation": 'A = "A.npy"'}, "validation.y is missing"),
    ({"validation": 'A = "A.npy"\ny = "y.npy"\nseed = 1'}, "no use beside 'A'"),
    ({"validation": 'holdout = 0.2\ny = "y.npy"'}, "no use beside 'holdout'"),
    ({"search": 'method = "LBFGS"'}, "did you mean 'LBFGSB'?"),
    ({"search": "steps = 0"}, "search.steps = 0: a whole number above 0 is wanted"),
    ({"serach": "steps = 1"}, "unknown key 'serach': did you mean 'search'?"),
]


@pytest.mark.parametrize("changes, wanted", BAD, ids=[wanted for _, wanted in BAD])
def test_what_is_wrong_is_said(write, changes, wanted):
    path = write(**changes)
    with pytest.raises(ValueError) as error:
        problem_file.read(path)
    assert str(path) in str(error.value) and wanted in str(error.value), error.value


def test_validation_rows_of_another_width_are_refused(write):
    np.save(write().parent / "narrow.npy", A[:, :2])
    path = write(validation='A = "narrow.npy"\ny = "y.npy"')
    with pytest.raises(ValueError, match="A has 2 columns, .data. A has 3"):
        problem_file.read(path)
