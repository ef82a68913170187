"""The evidence of a run: every step, the best point, where it came from; saved as JSON + NPZ, whole or not at all."""

import dataclasses
import datetime
import errno
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

import invhyper
from invhyper import archive, tree
from invhyper.citation import bibtex
from invhyper.covariance import cholesky
from invhyper.parameters import SCALES, Parameter, Parameters
from invhyper.problem import Certificate, Solution

FORMAT = 1


@dataclass(frozen=True)
class Step:
    """One outer step: an evaluation of F and its gradient.

    `theta` and `gradient` are natural scale; `gradient_norm` is the norm of the projected gradient on the search scale;
    `tol` is what the lower level was asked for, the residuals and the `margin` are what was reached; `solves` counts
    lower-level solves, `work` the steps that they took (`Solution.steps`; of a solve that failed they are not known)
    and `seconds` time, all since the start.
    """

    k: int
    theta: PyTree
    value: float
    gradient: PyTree
    gradient_norm: float
    lower_residual: float
    adjoint_residual: float
    tol: float
    margin: float
    kink: bool
    solves: int
    seconds: float
    work: int = 0


@dataclass(frozen=True)
class Report:
    """What a run found and how: the best `theta` evaluated, F there (`value`), the lower-level `solution`, its
    `certificate`, the `history` of every `Step`, the `provenance` (versions, platform, date, methods), a `message` that
    says how the run ended, the `parameters` (scales and bounds), and `findings`, where a study puts results of its own
    (JSON scalars, lists, dicts, NumPy arrays).

    >>> import tempfile, numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.full(2, 0.8)))
    >>> report = ih.tune(problem, ih.Parameters(l2=ih.log(1.0, 1e-6, 1e2)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = ih.Report.load(report.save(f"{folder}/mine"))
    >>> again.value == report.value
    True
    """

    theta: PyTree
    value: float
    solution: Solution
    certificate: Certificate
    history: list[Step]
    provenance: dict
    message: str = ""
    parameters: Parameters | None = None
    findings: dict = field(default_factory=dict)

    def save(self, folder: str | os.PathLike, force: bool = False) -> Path:
        """Write report.json and arrays.npz into a new `folder` and return its path.

        The files are written into a temporary folder beside it, which is then renamed: whole or not at all. A folder
        that exists is left alone and the next free name taken (`mine`, `mine-2`, ...), unless `force` replaces it.
        The solution's `memo` (factors, duals) is not saved. Raises ValueError for findings that are not JSON or arrays.
        """
        target = Path(folder).absolute()
        arrays: dict[str, np.ndarray] = {}
        content = {"format": FORMAT}
        for name, part in self._parts().items():
            content[name] = archive.encode(part, arrays, name)
        text = json.dumps(content, indent=1, allow_nan=False)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            temporary.chmod(0o777 & ~_umask())
            (temporary / "report.json").write_text(text, encoding="utf-8")
            np.savez_compressed(temporary / "arrays.npz", **arrays)
            return _place(temporary, target, force)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _parts(self) -> dict[str, Any]:
        parts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        x = self.solution
        parts["solution"] = {"x": x.x, "error": float(x.error), "steps": int(x.steps), "result": str(x.result)}
        parts["certificate"] = dataclasses.asdict(self.certificate)
        parts["history"] = [{f.name: getattr(step, f.name) for f in dataclasses.fields(step)} for step in self.history]
        parts["parameters"] = _described(self.parameters)
        return parts

    @staticmethod
    def load(folder: str | os.PathLike) -> "Report":
        """The report saved in `folder`, equal to the last bit (but for the solution's memo, which is not saved).

        Raises FileNotFoundError if there is none, ValueError if the files are damaged or of another format.
        """
        folder = Path(folder)
        if not (folder / "report.json").is_file():
            raise FileNotFoundError(f"{folder} holds no report.json: a folder written by Report.save is wanted")
        try:
            content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
                arrays = dict(stored)
        except (OSError, ValueError, EOFError) as problem:
            raise ValueError(f"{folder} holds a damaged report: {problem}") from problem
        if content.pop("format", None) != FORMAT:
            raise ValueError(f"{folder} holds a report of another format: format {FORMAT} is wanted")
        parts = {name: archive.decode(part, arrays) for name, part in content.items()}
        parts["solution"] = Solution(**parts["solution"])
        parts["certificate"] = Certificate(**parts["certificate"])
        parts["history"] = [Step(**step) for step in parts["history"]]
        parts["parameters"] = _rebuilt(parts["parameters"])
        return Report(**parts)

    def summary(self) -> str:
        """A few lines for a person: how it ended, the best point, what it cost, how far to trust it."""
        lines = [self.message, f"F = {self.value:.10g} at"]
        if self.parameters is None:
            names = zip(tree.paths(self.theta), jax.tree.leaves(self.theta), strict=True)
            lines += [f"  {path} = {np.array2string(np.asarray(leaf), threshold=6)}" for path, leaf in names]
        else:
            lines += ["  " + line for line in self.parameters.table(self.theta).splitlines()]
        if self.history:
            last = self.history[-1]
            lines.append(f"{len(self.history)} steps, {last.solves} lower-level solves, {last.seconds:.2f} s")
        lines.append(self.certificate.verdict)
        return "\n".join(lines)

    def __repr__(self):
        return f"Report\n{self.summary()}"

    def citation(self) -> str:
        """BibTeX for invhyper and the methods that this run used."""
        return bibtex(self.provenance.get("methods", []))


def provenance(*, search: Any, hypergradient: Any, problem: Any, seed: int | None = None) -> dict:
    """Where a result comes from: versions, platform, date, methods, command."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "numpy", "scipy", "equinox", "lineax")}
    return {
        "versions": {"invhyper": invhyper.__version__, "python": platform.python_version(), **versions},
        "platform": platform.platform(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "search": repr(search),
        "hypergradient": repr(hypergradient),
        "lower": type(problem.lower).__name__,
        "criterion": getattr(problem.criterion, "__name__", type(problem.criterion).__name__),
        "methods": [type(search).__name__, type(hypergradient).__name__],
        "seed": seed,
        "command": " ".join(sys.argv),
    }


def _place(temporary: Path, target: Path, force: bool) -> Path:
    """Rename `temporary` to the first free name. A rename onto a folder that holds anything fails, so that of two
    processes that want the same name the later one goes on to the next."""
    if force and os.path.lexists(target):
        attic = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
        os.rename(target, attic / target.name)
        try:
            os.rename(temporary, target)
        except OSError:
            os.rename(attic / target.name, target)
            raise
        finally:
            shutil.rmtree(attic, ignore_errors=True)
        return target
    for number in itertools.count(1):
        place = target if number == 1 else target.with_name(f"{target.name}-{number}")
        if os.path.lexists(place):
            continue
        try:
            os.rename(temporary, place)
            return place
        except OSError as problem:
            if problem.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


def _described(parameters: Parameters | None) -> dict | None:
    """Parameters as a tree of numbers, which stand for the entries of a list."""
    if parameters is None:
        return None
    leaves = [
        {"scale": leaf.scale.name, "start": leaf.start, "lower": leaf.lower, "upper": leaf.upper, "unit": leaf.unit}
        for leaf in parameters.leaves
    ]
    numbers = itertools.count()
    return {"tree": jax.tree.map(lambda _: next(numbers), parameters.tree), "leaves": leaves}


def _rebuilt(described: dict | None) -> Parameters | None:
    if described is None:
        return None
    leaves = [
        cholesky(leaf["start"], leaf["unit"])
        if leaf["scale"] == "cholesky"
        else Parameter(**{**leaf, "scale": SCALES[leaf["scale"]]})
        for leaf in described["leaves"]
    ]
    return Parameters.of(jax.tree.map(lambda number: leaves[number], described["tree"]))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
