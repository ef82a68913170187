"""The command line: run a case study, tune or check a problem of one's own, show or cite a result.

Results go to files and stdout, progress to stderr. An error is one sentence on stderr and exit code 2; `check` ends in
1 where the gradient fails its audit.
"""

import argparse
import difflib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from jax.errors import JaxRuntimeError
from rich.console import Console
from rich.table import Table


class Parser(argparse.ArgumentParser):
    """Errors in one sentence."""

    def error(self, message):
        self.exit(2, f"invhyper: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` None takes those of the process. Returns the exit code."""
    from invhyper.problem import NotConverged

    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (ValueError, NotConverged, OSError, ModuleNotFoundError) as error:
        sentence = str(error)
    except JaxRuntimeError as error:  # a ValueError raised inside compiled code arrives as one; its sentence comes last
        sentence = str(error).strip().splitlines()[-1]
    except KeyboardInterrupt:
        print("invhyper: interrupted", file=sys.stderr)
        return 130
    print(f"invhyper: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


def _parser() -> Parser:
    parser = Parser(prog="invhyper", description="Tune inverse problems by exact hypergradients.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name, function, about):
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(command=function)
        return sub

    run = command("run", run_study, "Run a case study: tune, compare, write the report and its figures.")
    run.add_argument("study", metavar="STUDY", help=f"one of: {', '.join(studies()) or 'none found'}")
    run.add_argument("--quick", action="store_true", help="a small version, in seconds")
    run.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of the splits and draws (default 0)")
    tune = command("tune", tune_problem, "Tune the weights of a problem of your own, described in a TOML file.")
    tune.add_argument("problem", metavar="PROBLEM.toml", help="data, model, weights, validation (the docs show one)")
    for sub in (run, tune):
        sub.add_argument("--out", type=Path, metavar="DIR", help="result folder (default runs/NAME, the next free one)")
        sub.add_argument("--force", action="store_true", help="replace the report in an --out that exists")
    check = command("check", check_problem, "Audit the hypergradient of a problem against central differences.")
    check.add_argument("problem", metavar="PROBLEM.toml", help="as for tune")
    check.add_argument("--out", type=Path, metavar="DIR", help="draw the audit into DIR/audit.png (26 solves a slope)")
    check.add_argument("--force", action="store_true", help="replace the audit.png of an earlier check")
    show = command("show", show_report, "Show a saved report.")
    cite = command("cite", cite_report, "BibTeX for the methods that a saved report used.")
    for sub in (show, cite):
        sub.add_argument("report", metavar="REPORT", type=Path, help="a result folder")
    return parser


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if seed < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number, 0 or more, is wanted")
    return seed


# ---------------------------------------------------------------- run


def run_study(options) -> int:
    """`invhyper run STUDY`."""
    from invhyper.search.table import table

    name = _nearest_study(options.study)
    folder = _folder(options, name)
    study, figures = (_load(studies()[name], part) for part in ("study", "figures"))
    report = study.run(quick=options.quick, seed=options.seed, watch=[table()])
    folder = report.save(folder, force=options.force)
    drawn = figures.draw(report, folder)
    for line in report.findings.get("summary", []):
        print(line)
    _wrote(folder, drawn)
    return 0


def studies() -> dict[str, Path]:
    """The case studies found, by name: those of the installed package, else those of the checkout."""
    package = Path(__file__).resolve().parent
    for home in (package / "case_studies", package.parent / "case_studies"):
        found = {study.parent.name: study.parent for study in sorted(home.glob("*/study.py"))}
        if found:
            return found
    return {}


def _nearest_study(name: str) -> str:
    known = studies()
    if name in known:
        return name
    if not known:
        raise ValueError("no case studies were found beside the package: install invhyper again, or run in a checkout")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    raise ValueError(f"there is no study {name!r}: did you mean {near!r}? The studies are {', '.join(known)}")


def _load(folder: Path, part: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"invhyper_case_{folder.name}_{part}", folder / f"{part}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- tune, check


def tune_problem(options) -> int:
    """`invhyper tune PROBLEM.toml`."""
    from invhyper import plots, problem_file
    from invhyper.problem import solve
    from invhyper.search.table import table
    from invhyper.search.tune import tune

    folder = _folder(options, Path(options.problem).stem)
    given = problem_file.read(options.problem)
    report = tune(given.problem, given.weights, None, given.search, watch=[table()], seed=given.seed, **given.options)
    folder = report.save(folder, force=options.force)
    before, after = (_first(x) for x in (solve(given.problem.lower, given.weights.theta).x, report.solution.x))
    drawn = [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(plots.coefficients(before, after), folder / "coefficients.png"),
    ]
    _print_rows(report.message, _about(report))
    _wrote(folder, drawn)
    return 0


def check_problem(options) -> int:
    """`invhyper check PROBLEM.toml`."""
    from invhyper import certificate, plots, problem_file

    picture = None if options.out is None else _free(options.out / "audit.png", options.force)
    given = problem_file.read(options.problem)
    drawn = picture is not None
    audit = certificate.audit(given.problem, given.weights.theta, curve=drawn, spectrum=True)
    rows = [
        (
            each.direction, f"{each.slope:.9g}", f"{each.difference:.9g}", f"{each.relative_error:.1e}",
            f"{each.step:.1e}", {True: "yes", False: "NO", None: f"undecided: {each.note}"}[each.agrees],
        )
        for each in audit.comparisons
    ]  # fmt: skip
    _print_table(("direction", "slope", "difference", "relative error", "step", "agrees"), rows)
    _print_rows("evidence", list(audit.evidence.items()))
    print(audit.verdict)
    if drawn:
        picture.parent.mkdir(parents=True, exist_ok=True)
        print(f"wrote {plots.save(plots.audit(audit), picture)}")
    return 0 if audit.passed else 1


def _first(x):
    """The coefficients of the (first) lower level: of k-fold problems, the first fold's."""
    return np.asarray(x[0] if isinstance(x, tuple) else x)


# ---------------------------------------------------------------- show


def show_report(options) -> int:
    """`invhyper show REPORT`."""
    from invhyper.report import Report

    report = Report.load(options.report)
    _print_rows(str(options.report), _about(report))
    for line in report.findings.get("summary", []):
        print(line)
    return 0


def cite_report(options) -> int:
    """`invhyper cite REPORT`."""
    from invhyper.report import Report

    print(Report.load(options.report).citation())
    return 0


def _about(report) -> list[tuple[str, str]]:
    """What a person asks first of a report: label, value."""
    rows = [("message", report.message), ("criterion F", f"{report.value:.12g}")]
    rows += [(f"theta {name}", _shown(value)) for name, value in _named(report.theta)]
    certificate = report.certificate
    rows.append(("lower residual", f"{certificate.lower_residual:.1e}"))
    rows.append(("adjoint residual", f"{certificate.adjoint_residual:.1e}"))
    if certificate.error_estimate is not None:
        rows.append(("error estimate", f"{certificate.error_estimate:.1e}"))
    rows.append(("margin to a kink", f"{certificate.margin:.1e} {certificate.margin_of}".strip()))
    if certificate.verdict:
        rows.append(("verdict", certificate.verdict))
    if report.history:
        last = report.history[-1]
        rows.append(("spent", f"{len(report.history)} steps, {last.solves} lower-level solves, {last.seconds:.2f} s"))
    findings = [(key, value) for key, value in report.findings.items() if isinstance(value, str | bool | int | float)]
    rows += [(key, f"{value:.8g}" if isinstance(value, float) else str(value)) for key, value in findings]
    rows += [(key, str(value)) for key, value in report.provenance.items() if not isinstance(value, dict | list)]
    return rows


def _named(theta):
    import jax

    from invhyper import tree

    return list(zip(tree.paths(theta), jax.tree.leaves(theta), strict=True))


def _shown(value) -> str:
    value = np.asarray(value)
    if value.size == 1:
        return f"{float(value.squeeze()):.10g}"
    low, middle, high = np.quantile(value, [0, 0.5, 1])
    return f"{value.size} values from {low:.3g} to {high:.3g}, median {middle:.3g}"


def _print_rows(title: str, rows: list[tuple[str, str]]):
    """A table on a terminal, plain aligned lines else."""
    if Console().is_terminal:
        table = Table(title=title, show_header=False)
        for label, value in rows:
            table.add_row(label, value)
        Console().print(table, markup=False)
        return
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print(f"{label:<{width}}  {value}")


def _print_table(names: tuple[str, ...], rows: list[tuple[str, ...]]):
    """Columns under their names, the numbers between first and last to the right: on a terminal a table, else lines."""
    last = len(names) - 1
    if Console().is_terminal:
        table = Table()
        for k, name in enumerate(names):
            table.add_column(name, justify="left" if k in (0, last) else "right")
        for row in rows:
            table.add_row(*row)
        Console().print(table, markup=False)
        return
    widths = [max(len(row[k]) for row in (names, *rows)) for k in range(last)]
    for row in (names, *rows):
        cells = [f"{cell:<{w}}" if k == 0 else f"{cell:>{w}}" for k, (cell, w) in enumerate(zip(row, widths))]  # noqa: B905
        print("  ".join((*cells, row[last])))


# ---------------------------------------------------------------- result folders


def _free(path: Path, force: bool) -> Path:
    """The path of a file to be written; one that exists, or lies in what is no folder, is refused before any work."""
    blocked = next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None)
    if blocked is not None:
        raise ValueError(f"--out {path.parent}: {blocked} is a file; a folder is wanted")
    if path.exists() and not force:
        raise ValueError(f"{path} exists: choose another --out, or add --force to replace it")
    return path


def _folder(options, name: str) -> Path:
    """Where the report goes; an --out that exists is refused here, before any work."""
    if options.out is None:
        return Path("runs") / name
    if options.out.exists() and not options.force:
        raise ValueError(
            f"--out {options.out} exists: choose another folder, or add --force to replace the report in it"
        )
    if options.out.exists() and not (options.out / "report.json").is_file():
        raise ValueError(f"--out {options.out} exists and holds no report: --force replaces results, nothing else")
    return options.out


def _wrote(folder: Path, drawn: list[Path]):
    print(f"wrote {folder}: report, {', '.join(path.name for path in drawn)}")
