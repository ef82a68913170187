"""The command line: results, result folders, and every refusal in one sentence."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import invhyper as ih
from invhyper import cli, problem_file

RIDGE = """
[data]
A = "rows.npz"
y = "rows.npz"

[model]
name = "Ridge"

[weights.l2]
start = 5.0
lower = 1e-4
upper = 1e4

[validation]
holdout = 0.25
seed = 3
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with a user's data, a problem file, and the result of tuning it from there."""
    home = tmp_path_factory.mktemp("user")
    rng = np.random.default_rng(0)
    A = rng.standard_normal((40, 5))
    y = A @ np.array([2.0, -1.0, 0.0, 0.0, 0.5]) + rng.standard_normal(40)
    np.savez(home / "rows.npz", A=A, y=y)
    (home / "ridge.toml").write_text(RIDGE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert cli.main(["tune", "ridge.toml"]) == 0
    return home


@pytest.fixture
def here(home, monkeypatch) -> Path:
    monkeypatch.chdir(home)
    return home


def refused(capsys, *arguments) -> str:
    """The one sentence of a command that must fail."""
    try:
        code = cli.main(list(arguments))
    except SystemExit as left:
        code = left.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("invhyper: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err


def test_tune_finds_the_optimum_of_the_split_it_describes(home):
    data = np.load(home / "rows.npz")
    order = np.random.default_rng(3).permutation(40)
    held, kept = order[:10], order[10:]
    A, y, A_val, y_val = data["A"][kept], data["y"][kept], data["A"][held], data["y"][held]

    def loss(l2):
        x = np.linalg.solve(A.T @ A + l2 * np.eye(5), A.T @ y)
        return np.mean((A_val @ x - y_val) ** 2)

    report = ih.Report.load(home / "runs" / "ridge")
    assert report.value == pytest.approx(loss(float(report.theta["l2"])), rel=1e-12)
    assert report.value <= min(loss(l2) for l2 in np.geomspace(1e-4, 1e4, 400)) * (1 + 1e-9)
    assert report.provenance["seed"] == 3
    for name in ("descent.png", "coefficients.png"):
        assert (home / "runs" / "ridge" / name).read_bytes().startswith(b"\x89PNG")
    assert not list(home.rglob("*.part*")) and not list(home.glob("runs/.*"))


def test_progress_goes_to_stderr_and_results_to_stdout(here, capsys):
    assert cli.main(["tune", "ridge.toml", "--out", "elsewhere/mine"]) == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[0].split() == ["k", "F", "|grad|", "lower", "adjoint", "tol", "seconds"]
    assert {len(line) for line in lines[:-1]} == {len(lines[0])}, "the lines of the table are aligned"
    assert "criterion F" in out and "theta l2" in out and f"wrote {here / 'elsewhere' / 'mine'}" in out


def test_results_are_never_overwritten(here, capsys):
    before = (here / "runs" / "ridge" / "report.json").read_bytes()
    assert cli.main(["tune", "ridge.toml"]) == 0
    assert (here / "runs" / "ridge-2" / "report.json").is_file()
    assert (here / "runs" / "ridge" / "report.json").read_bytes() == before
    capsys.readouterr()
    said = refused(capsys, "tune", "ridge.toml", "--out", "runs/ridge")
    assert "runs/ridge exists" in said and "--force" in said
    assert (here / "runs" / "ridge" / "report.json").read_bytes() == before


def test_an_out_that_exists_is_refused_before_any_work(here, capsys):
    said = refused(capsys, "tune", "no-such-file.toml", "--out", "runs/ridge")
    assert "runs/ridge exists" in said
    assert "exists" in refused(capsys, "run", "diabetes_elastic_net", "--quick", "--out", "runs/ridge")


def test_force_replaces_a_report_and_nothing_else(here, capsys):
    assert cli.main(["tune", "ridge.toml", "--out", "runs/forced"]) == 0
    (here / "runs" / "forced" / "descent.png").unlink()
    assert cli.main(["tune", "ridge.toml", "--out", "runs/forced", "--force"]) == 0
    assert (here / "runs" / "forced" / "descent.png").is_file()
    assert not (here / "runs" / "forced-2").exists()
    (here / "papers").mkdir()
    (here / "papers" / "thesis.tex").write_text("ten years")
    capsys.readouterr()
    said = refused(capsys, "tune", "ridge.toml", "--out", "papers", "--force")
    assert "holds no report" in said
    assert (here / "papers" / "thesis.tex").read_text() == "ten years"


def test_show(here, capsys):
    assert cli.main(["show", "runs/ridge"]) == 0
    out = capsys.readouterr().out
    report = ih.Report.load("runs/ridge")
    assert f"{report.value:.12g}" in out and report.message in out and "margin to a kink" in out
    assert "┃" not in out, "plain lines where no terminal is"


def test_show_on_a_terminal_draws_a_table(here, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["show", "runs/ridge"]) == 0
    assert "│" in capsys.readouterr().out


def test_cite(here, capsys):
    assert cli.main(["cite", "runs/ridge"]) == 0
    assert "10.1162/089976600300015187" in capsys.readouterr().out


def test_check_passes_a_right_gradient(here, capsys):
    assert cli.main(["check", "ridge.toml"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[:3] == ["direction", "slope", "difference"]
    assert out[1].split()[0] == "l2" and out[1].split()[-1] == "yes"


def test_check_fails_a_wrong_gradient(here, capsys, monkeypatch):
    def off_by_a_thousandth(problem, theta, **options):
        found = ih.Implicit()(problem, theta, **options)
        return replace(found, gradient={"l2": 1.001 * found.gradient["l2"]})

    monkeypatch.setattr(sys.modules["invhyper.certificate.audit"], "Implicit", lambda: off_by_a_thousandth)
    assert cli.main(["check", "ridge.toml", "--out", "wrong"]) == 1
    assert "NO" in capsys.readouterr().out
    assert (here / "wrong" / "audit.png").stat().st_size > 10_000


def test_check_says_what_else_is_known(here, capsys):
    assert cli.main(["check", "ridge.toml"]) == 0
    out = capsys.readouterr().out
    given = problem_file.read("ridge.toml")
    eigenvalues = np.linalg.eigvalsh(given.problem.lower.A.T @ given.problem.lower.A) + 5.0
    assert f"eigenvalues of A  {eigenvalues[0]:.3g} to {eigenvalues[-1]:.3g}, condition number" in out
    assert "lower residual" in out and "margin to a kink" in out
    assert out.splitlines()[-1] == "1 of 1 slopes agree with central differences"


def test_check_on_a_terminal_draws_a_table(here, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["check", "ridge.toml"]) == 0
    out = capsys.readouterr().out
    assert "relative error" in out and "│" in out and "evidence" in out


def test_check_draws_once_unless_forced(here, capsys):
    picture = here / "drawn" / "deep" / "audit.png"
    assert cli.main(["check", "ridge.toml", "--out", "drawn/deep"]) == 0
    assert f"wrote {Path('drawn/deep/audit.png')}" in capsys.readouterr().out
    first = picture.stat().st_mtime_ns
    assert "audit.png exists: choose another --out, or add --force" in refused(
        capsys, "check", "ridge.toml", "--out", "drawn/deep"
    )
    assert picture.stat().st_mtime_ns == first
    assert cli.main(["check", "ridge.toml", "--out", "drawn/deep", "--force"]) == 0
    capsys.readouterr()
    assert picture.stat().st_mtime_ns > first
    assert "rows.npz is a file; a folder is wanted" in refused(capsys, "check", "ridge.toml", "--out", "rows.npz/deep")


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        (("run", "diabetes_elastic_nett"), "did you mean 'diabetes_elastic_net'?"),
        (
            ("run", "bpdn"),
            "blind_blur, bpdn_weight, breast_cancer_weight_decay, deblurring_split_bregman, diabetes_elastic_net",
        ),
        (("run", "bpdn_weight", "--seed", "-1"), "a whole number, 0 or more"),
        (("run", "bpdn_weight", "--fast"), "unrecognized arguments: --fast"),
        (("run",), "STUDY"),
        ((), "COMMAND"),
        (("tune", "no.toml"), "there is no problem file no.toml"),
        (("tune", "runs"), "runs is a folder"),
        (("check", "rows.npz"), "not a TOML file"),
        (("show", "nowhere"), "nowhere holds no report.json"),
        (("cite", "nowhere"), "nowhere holds no report.json"),
    ],
)
def test_refusals(here, capsys, arguments, wanted):
    assert wanted in refused(capsys, *arguments)


def test_a_damaged_report_is_refused(here, capsys):
    broken = here / "broken"
    broken.mkdir()
    (broken / "report.json").write_text("{")
    assert "damaged" in refused(capsys, "show", "broken")


def test_a_lower_level_that_fails_is_one_sentence(here, capsys, monkeypatch):
    def fails(*arguments, **options):
        raise ih.NotConverged("Ridge stopped at 1.0e-01, above tol 1.0e-08: raise max_steps or loosen tol")

    monkeypatch.setattr("invhyper.search.tune.tune", fails)
    assert "raise max_steps or loosen tol" in refused(capsys, "tune", "ridge.toml")


def test_the_studies_are_found_from_anywhere(here):
    assert set(cli.studies()) == {
        "blind_blur",
        "bpdn_weight",
        "breast_cancer_weight_decay",
        "deblurring_split_bregman",
        "diabetes_elastic_net",
        "ehrhardt_roberts",
        "epidemic",
        "hare_lynx",
        "indometacin",
        "kinks_of_the_lasso",
        "learning_from_many_images",
        "ode_initial_condition",
        "population_q",
        "spatially_varying_tv",
        "theophylline",
        "implicit_and_unrolled",
        "momentum_and_curvature",
        "hyper_cleaning",
        "learned_schedule",
        "learned_adam",
        "tv_denoising",
    }
    for folder in cli.studies().values():
        assert all((folder / name).is_file() for name in ("study.py", "figures.py", "expected.json", "README.md"))


def test_python_m_invhyper(here):
    """From another folder than the checkout, in a process of its own."""
    command = [sys.executable, "-m", "invhyper"]
    package = Path(ih.__file__).resolve().parent.parent
    environment = {"PYTHONPATH": str(package), "PATH": ""}
    shown = subprocess.run([*command, "show", "runs/ridge"], capture_output=True, text=True, cwd=here, env=environment)
    assert shown.returncode == 0 and "criterion F" in shown.stdout, shown.stderr
    wrong = subprocess.run([*command, "run", "nothing"], capture_output=True, text=True, cwd=here, env=environment)
    assert wrong.returncode == 2 and wrong.stderr.startswith("invhyper: there is no study 'nothing'")
