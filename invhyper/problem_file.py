"""A bilevel problem from a TOML file: data files, model, weights, validation rows and search.

[data]                       # paths are relative to the TOML file
A = "rows.npz"               # .npy, .csv, .npz (the array A of it; "rows.npz#X" names another; SciPy's sparse .npz too)
y = "rows.npz"               # of a .csv with a header: "rows.csv#target", a column (left out of A from the same file)

[model]
name = "ElasticNet"          # ElasticNet, BPDN, Ridge or Logistic

[weights.l1]                 # one table for each weight of the model
start = 10.0
lower = 1e-3
upper = 1e3
scale = "log"                # log (the default), log10, linear or logit
each = false                 # true: one weight per column of A

[validation]                 # holdout and seed, or folds and seed, or files A and y
holdout = 0.3                # this fraction of the rows, drawn by the seed
seed = 0

[search]                     # optional, and so is each of its keys
method = "LBFGSB"            # Bracket, LBFGSB, Adam or Descent
steps = 100                  # budgets: outer steps, seconds
tol = 1e-6
"""

import difflib
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from invhyper import parameters
from invhyper.bilevel import Bilevel
from invhyper.criteria.validation import HeldOut, KFold

MODELS = ("ElasticNet", "BPDN", "Ridge", "Logistic")
SEARCHES = ("Bracket", "LBFGSB", "Adam", "Descent")
SCALES = ("log", "log10", "linear", "logit")
PER_COLUMN = ("ElasticNet", "Ridge", "Logistic")


@dataclass(frozen=True)
class ProblemFile:
    """What a TOML file says: the problem, the weights to start from, and the arguments of `tune` beside them."""

    problem: Bilevel
    weights: parameters.Parameters
    search: Any = None
    options: dict = field(default_factory=dict)
    seed: int | None = None


class Section:
    """A table of the TOML file that checks what is read from it; every error names the file and the key."""

    def __init__(self, path: Path, name: str, table: Any, known: Iterable[str]):
        self.path, self.name, self.table, self.known = path, name, table, tuple(known)
        if not isinstance(table, dict):
            raise ValueError(f"{path}: {name} is {table!r}: a table is wanted, with the keys {_listed(self.known)}")
        for key in table:
            if key not in self.known:
                near = difflib.get_close_matches(key, self.known, n=1, cutoff=0.0)[0]
                where = f" in [{name}]" if name else ""
                raise self.error(f"unknown key {key!r}{where}: did you mean {near!r}? Known are {_listed(self.known)}")

    def error(self, sentence: str) -> ValueError:
        return ValueError(f"{self.path}: {sentence}")

    def bad(self, key: str, wanted: str) -> ValueError:
        return self.error(f"{self._full(key)} = {self.table[key]!r}: {wanted}")

    def section(self, key: str, known: Iterable[str], optional: bool = False) -> "Section":
        if key not in self.table and not optional:
            raise self.error(f"the table [{self._full(key)}] is missing: it has the keys {_listed(known)}")
        return Section(self.path, self._full(key), self.table.get(key, {}), known)

    def number(self, key: str, default=None, *, above=-np.inf, below=np.inf, whole=False, infinite=False):
        if key not in self.table:
            if default is None:
                raise self.error(f"{self._full(key)} is missing: a number is wanted")
            return default
        value = self.table[key]
        kind = int if whole else int | float
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if not fits or np.isnan(value) or not (above < value < below or (infinite and np.isinf(value))):
            limits = f" above {above:g}" if np.isfinite(above) else ""
            limits += f"{' and' if limits else ''} below {below:g}" if np.isfinite(below) else ""
            raise self.bad(key, f"a {'whole ' if whole else ''}number{limits} is wanted")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str | None:
        if key not in self.table:
            if default is None:
                raise self.error(f"{self._full(key)} is missing: one of {_listed(choices)} is wanted")
            return default
        value = self.table[key]
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.0)[0]
            raise self.bad(key, f"did you mean {near!r}? One of {_listed(choices)} is wanted")
        return value

    def flag(self, key: str) -> bool:
        value = self.table.get(key, False)
        if not isinstance(value, bool):
            raise self.bad(key, "true or false is wanted")
        return value

    def file(self, key: str) -> tuple[Path, str]:
        """The path, made absolute, and the name after '#'."""
        value = self.table.get(key)
        if not isinstance(value, str):
            given = f" = {value!r}" if key in self.table else " is missing"
            raise self.error(f"{self._full(key)}{given}: the name of a .npz, .npy or .csv file is wanted")
        name, _, inner = value.partition("#")
        path = self.path.parent / name
        if not path.is_file():
            raise self.bad(key, f"there is no file {path}")
        return path, inner

    def _full(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key


def read(path: str | Path) -> ProblemFile:
    """The problem that a TOML file describes (this module's docstring shows one).

    Raises ValueError, a sentence with the file and the key, for an unknown key (the nearest known one is named), a
    missing or bad value, a data file that can't be read, and shapes that don't match.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no problem file {path}: a TOML file is wanted") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder: a TOML file is wanted") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from None
    top = Section(path, "", table, ("data", "model", "weights", "validation", "search"))
    make_lower = _model(top)
    data = top.section("data", ("A", "y"))
    A, y = _rows(data)
    weights = _weights(top, make_lower, A.shape[1])
    problem, seed = _problem(top, make_lower, A, y)
    search, options = _search(top)
    return ProblemFile(problem, weights, search, options, seed)


def _model(top: Section) -> Callable:
    import invhyper as ih

    model = top.section("model", ("name",))
    return getattr(ih, model.choice("name", MODELS))


def _weights(top: Section, make_lower: Callable, columns: int) -> parameters.Parameters:
    tables = top.section("weights", make_lower.keys)
    scales = {}
    for key in make_lower.keys:
        weight = tables.section(key, ("start", "lower", "upper", "scale", "each"))
        scale = getattr(parameters, weight.choice("scale", SCALES, "log"))
        start = float(weight.number("start"))
        if weight.flag("each"):
            if make_lower.__name__ not in PER_COLUMN:
                raise weight.bad("each", f"{make_lower.__name__} has one {key} for all columns: leave it out")
            start = np.full(columns, start)
        try:
            scales[key] = scale(start, weight.number("lower"), weight.number("upper", infinite=True))
        except ValueError as error:
            raise weight.error(f"[{weight.name}]: {error}") from None
    return parameters.Parameters(**scales)


def _problem(top: Section, make_lower: Callable, A, y) -> tuple[Bilevel, int | None]:
    validation = top.section("validation", ("holdout", "seed", "folds", "A", "y"))
    given = [way for way in ("holdout", "folds", "A") if way in validation.table]
    if len(given) != 1:
        found = f"both {_listed(given)} are given" if given else "none is given"
        raise top.error(
            f"[validation] {found}: exactly one of holdout (a fraction), folds (a number) or A and y (files)"
        )
    (way,) = given
    if way != "A" and "y" in validation.table or way == "A" and "seed" in validation.table:
        odd = "seed" if way == "A" else "y"
        raise validation.bad(odd, f"it has no use beside {way!r}: leave it out")
    seed = validation.number("seed", 0, above=-1, whole=True)
    rows = len(y)
    try:
        if way == "folds":
            folds = validation.number("folds", above=1, below=rows + 1, whole=True)
            return KFold(make_lower, A, y, folds=folds, seed=seed), seed
        if way == "A":
            A_val, y_val = _rows(validation)
            if A_val.shape[1] != A.shape[1]:
                raise validation.error(
                    f"[validation] A has {A_val.shape[1]} columns, [data] A has {A.shape[1]}: the same are wanted"
                )
            return Bilevel(make_lower(A, y), HeldOut(A_val, y_val)), None
        fraction = validation.number("holdout", above=0, below=1)
        held = min(max(round(fraction * rows), 1), rows - 1)
        order = np.random.default_rng(seed).permutation(rows)
        inside, outside = np.sort(order[held:]), np.sort(order[:held])
        return Bilevel(make_lower(A[inside], y[inside]), HeldOut(A[outside], y[outside])), seed
    except ValueError as error:
        raise error if str(error).startswith(str(top.path)) else top.error(str(error)) from None


def _search(top: Section) -> tuple[Any, dict]:
    import invhyper as ih

    search = top.section("search", ("method", "steps", "seconds", "tol"), optional=True)
    method = search.choice("method", SEARCHES, "") or None
    options = {
        key: search.number(key, above=0, whole=key == "steps")
        for key in ("steps", "seconds", "tol")
        if key in search.table
    }
    return (None if method is None else getattr(ih, method)()), options


def _rows(section: Section):
    """A (rows, columns) and y (rows,) that belong together."""
    (path_A, name_A), (path_y, name_y) = section.file("A"), section.file("y")
    drop = name_y if path_A.suffix == ".csv" and path_A == path_y and not name_A else ""
    A = _array(section, "A", path_A, name_A, drop)
    y = _array(section, "y", path_y, name_y)
    y = y.ravel() if not scipy.sparse.issparse(y) and y.ndim == 2 and 1 in y.shape else y
    if A.ndim != 2 or y.ndim != 1 or A.shape[0] != y.shape[0]:
        wanted = "A (rows, columns) and y (rows,) are wanted"
        raise section.error(f"[{section.name}] A has shape {A.shape} and y has shape {y.shape}: {wanted}")
    if A.shape[0] < 2 or A.shape[1] < 1:
        raise section.error(f"[{section.name}] A has shape {A.shape}: two rows and one column at least are wanted")
    return A, y


def _array(section: Section, key: str, path: Path, name: str, drop: str = ""):
    readers = {".npz": _from_npz, ".npy": _from_npy, ".csv": _from_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise section.bad(key, "a .npz, .npy or .csv file is wanted")
    try:
        array = reader(path, name, key, drop)
    except (OSError, ValueError, KeyError) as error:
        said = error.args[0] if isinstance(error, KeyError) else " ".join(str(error).split())
        raise section.bad(key, f"can't be read: {said}") from None
    values = array.data if scipy.sparse.issparse(array) else array
    if values.dtype.kind not in "biuf":
        raise section.bad(key, f"it holds {values.dtype}: real numbers are wanted")
    if not np.all(np.isfinite(values)):
        raise section.bad(key, "it holds NaN or infinity: remove or mask these entries")
    return array.astype(float)


def _from_npz(path: Path, name: str, key: str, drop: str):
    with np.load(path, allow_pickle=False) as archive:
        held = archive.files
        if not name and {"format", "shape", "data"} <= set(held):
            return scipy.sparse.csr_array(scipy.sparse.load_npz(path))
        wanted = name or (key if key in held else held[0] if len(held) == 1 else key)
        if wanted not in held:
            raise KeyError(f"it has no array {wanted!r}; it holds {_listed(held)}, which '{path.name}#NAME' names")
        return archive[wanted]


def _from_npy(path: Path, name: str, key: str, drop: str):
    _refuse(name, path)
    return np.load(path, allow_pickle=False)


def _from_csv(path: Path, name: str, key: str, drop: str):
    with path.open(encoding="utf-8-sig") as lines:
        first = [cell.strip().strip('"') for cell in lines.readline().split(",")]
    header = None if all(_is_number(cell) for cell in first) else first
    column = name or drop
    if column and header is None:
        raise KeyError(f"it has no header line, so no column {column!r}")
    if column and column not in header:
        near = difflib.get_close_matches(column, header, n=1, cutoff=0.0)[0]
        raise KeyError(f"it has no column {column!r}: did you mean {near!r}?")
    table = np.loadtxt(path, delimiter=",", skiprows=0 if header is None else 1, ndmin=2, encoding="utf-8-sig")
    if name:
        return table[:, header.index(name)]
    return np.delete(table, header.index(drop), axis=1) if drop else table


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _refuse(name: str, path: Path):
    if name:
        raise KeyError(f"a {path.suffix} file holds one array: leave '#{name}' out")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
