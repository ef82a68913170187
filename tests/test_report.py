"""Reports: what they hold, saved whole or not at all, never over another, and read back to the last bit."""

import json
import os
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import invhyper as ih
from invhyper import archive


def exact(a, b):
    """Same structure, types of leaves, shapes, dtypes and bits."""
    leaves_a, structure_a = jax.tree.flatten(a)
    leaves_b, structure_b = jax.tree.flatten(b)
    assert structure_a == structure_b
    for u, v in zip(leaves_a, leaves_b, strict=True):
        u, v = np.asarray(u), np.asarray(v)
        assert u.dtype == v.dtype and u.shape == v.shape and u.tobytes() == v.tobytes()


@pytest.fixture(scope="module")
def report():
    """Two keys, one of them an array in a nested dict, and findings of every kind."""
    problem = ih.Bilevel(zoo.Identity(), lambda x, theta: jnp.sum((x - jnp.array([0.1, 0.7])) ** 2))
    parameters = ih.Parameters(t=ih.log(np.array([1.0, 1 / 3]), 1e-3, np.array([10.0, np.inf]), unit="mm"))
    report = ih.tune(problem, parameters, seed=7)
    report.findings.update(
        accuracy=0.1 + 0.2,
        table=[{"name": "ElasticNetCV", "loss": float("nan"), "fits": 500}, None, True],
        curve={"weights": np.geomspace(1e-3, 1, 5), "counts": np.arange(3), "empty": np.zeros((0, 2))},
        pair=(1, (-np.inf, "x")),
        by_fold={0: 1.5, 1: 2.5},
        complex=np.array([1 + 2j]),
        single=np.float32(0.1),
    )
    return report


def test_round_trip_to_the_last_bit(report, tmp_path):
    again = ih.Report.load(report.save(tmp_path / "mine"))
    exact(again.theta, report.theta)
    exact(again.solution.x, report.solution.x)
    exact(again.findings, {**report.findings, "single": np.asarray(np.float32(0.1))})
    assert again.findings["by_fold"] == {0: 1.5, 1: 2.5} and again.findings["pair"] == (1, (-np.inf, "x"))
    assert len(again.history) == len(report.history) > 2
    for mine, theirs in zip(again.history, report.history, strict=True):
        exact(vars(mine), vars(theirs))
    assert again.certificate == report.certificate and again.certificate.margin == np.inf
    assert (again.value, again.message, again.provenance) == (report.value, report.message, report.provenance)
    exact([vars_of(p) for p in again.parameters.leaves], [vars_of(p) for p in report.parameters.leaves])
    assert again.parameters.leaves[0].unit == "mm" and repr(again) == repr(report)


def vars_of(parameter):
    return {"start": parameter.start, "lower": parameter.lower, "upper": parameter.upper}


def test_nested_theta_round_trips(tmp_path):
    class Cell(zoo.Identity):
        keys = None

    nested = {"cell": {"q": 0.3, "k": np.array([[1.0, 2.0]])}, "rates": (0.1, [0.2])}
    report = ih.Report(
        ih.tree.to_numpy(nested), 0.0, ih.Solution((np.ones(2), {"a": 1.0})), ih.Certificate(0.0, 0.0), [], {}
    )
    again = ih.Report.load(report.save(tmp_path / "nested"))
    exact(again.theta, report.theta)
    exact(again.solution.x, report.solution.x)
    assert again.parameters is None and "cell.q" in again.summary()


def test_files_are_json_and_npz_without_pickle(report, tmp_path):
    folder = report.save(tmp_path / "mine")
    assert sorted(path.name for path in folder.iterdir()) == ["arrays.npz", "report.json"]
    content = json.loads((folder / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["certificate"]["margin"] == {"$float": "inf"}
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["history.0.theta.t"], report.history[0].theta["t"])
    assert list(tmp_path.iterdir()) == [folder], "no temporary folder is left"


def test_a_folder_is_never_overwritten(report, tmp_path):
    places = [report.save(tmp_path / "mine") for _ in range(3)]
    assert [place.name for place in places] == ["mine", "mine-2", "mine-3"]
    (tmp_path / "empty").mkdir()
    assert report.save(tmp_path / "empty").name == "empty-2" and not any((tmp_path / "empty").iterdir())
    (tmp_path / "file").write_text("kept")
    assert report.save(tmp_path / "file").name == "file-2" and (tmp_path / "file").read_text() == "kept"


def test_force_replaces_the_whole_folder(report, tmp_path):
    folder = report.save(tmp_path / "mine")
    (folder / "figure.png").write_text("old")
    assert report.save(tmp_path / "mine", force=True) == folder
    assert sorted(path.name for path in folder.iterdir()) == ["arrays.npz", "report.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("broken", ["savez_compressed", "rename"])
def test_what_can_not_be_written_whole_is_not_written_at_all(report, tmp_path, monkeypatch, force, broken):
    before = report.save(tmp_path / "mine")
    text = (before / "report.json").read_text()

    def fail(source, *rest, **arrays):
        if broken == "rename" and "-old-" in str(rest[0]) or "-old-" in str(source):
            return real(source, *rest)
        raise OSError("no space left on device")

    real = os.rename
    monkeypatch.setattr(np if broken == "savez_compressed" else os, broken, fail)
    with pytest.raises(OSError, match="no space left"):
        report.save(tmp_path / "mine", force=force)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (before / "report.json").read_text() == text
    ih.Report.load(before)


def test_two_writers_of_one_name_both_keep_their_report(report, tmp_path, monkeypatch):
    """The name is taken by another process between the look and the rename: the next free one is used."""
    real = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: False if str(path).endswith("mine") else real(path))
    first, second = report.save(tmp_path / "mine"), report.save(tmp_path / "mine")
    assert (first.name, second.name) == ("mine", "mine-2")
    assert ih.Report.load(first).value == ih.Report.load(second).value == report.value


def test_findings_that_need_pickle_are_refused_before_anything_is_written(report, tmp_path):
    for bad, words in (
        (object(), "findings.bad is of type object"),
        (np.array([None]), "findings.bad is an array of dtype object"),
    ):
        odd = ih.Report(**{**vars(report), "findings": {"bad": bad}})
        with pytest.raises(ValueError, match=words):
            odd.save(tmp_path / "odd")
    assert not list(tmp_path.iterdir())


def test_load_says_what_is_wrong(report, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no report.json"):
        ih.Report.load(tmp_path)
    folder = report.save(tmp_path / "mine")
    text = (folder / "report.json").read_text()
    (folder / "report.json").write_text(text[:100])
    with pytest.raises(ValueError, match="holds a damaged report"):
        ih.Report.load(folder)
    (folder / "report.json").write_text(text.replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match="another format"):
        ih.Report.load(folder)
    (folder / "report.json").write_text(text)
    (folder / "arrays.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="holds a damaged report"):
        ih.Report.load(folder)


def test_array_names_that_would_collide_are_told_apart():
    arrays = {}
    coded = archive.encode({"a b": np.ones(1), "a_b": np.zeros(1), "$odd": np.full(1, 2.0)}, arrays, "x")
    exact(archive.decode(coded, arrays), {"a b": np.ones(1), "a_b": np.zeros(1), "$odd": np.full(1, 2.0)})
    assert len(arrays) == 3


def test_provenance_and_summary_tell_where_it_comes_from(report):
    told = report.provenance
    assert set(told["versions"]) >= {"invhyper", "jax", "numpy", "scipy", "python"}
    assert told["seed"] == 7 and told["search"].startswith("LBFGSB(") and told["hypergradient"].startswith("Implicit(")
    assert told["date"].endswith("+00:00") and told["platform"] and told["command"].startswith(sys.argv[0])
    text = report.summary()
    assert report.message in text and "t[1]" in text and "mm" in text
    assert f"{len(report.history)} steps" in text and report.certificate.verdict in text


def test_citation_names_the_methods_used(report):
    text = report.citation()
    assert "10.1137/0916069" in text and "10.1162/089976600300015187" in text and "Adam" not in text


def test_report_pickles(report):
    again = pickle.loads(pickle.dumps(report))
    exact(again.theta, report.theta)
    assert repr(again) == repr(report)
