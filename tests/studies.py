"""What every case study is held to, once for each file of them; the tests of one study stand in its file."""

import json

import pytest

import invhyper as ih
from invhyper import cli

# Their pictures are scikit-image's.
IMAGING = {
    "bpdn_weight",
    "tv_denoising",
    "spatially_varying_tv",
    "deblurring_split_bregman",
    "learning_from_many_images",
    "blind_blur",
}
# Of too many parameters for a map of the criterion.
LIKELIHOODS = {"indometacin", "theophylline"}


class Studies:
    """The tests of all studies of a file. `pictures`: name -> its figures beside descent.png and criterion.png."""

    pictures: dict[str, set[str]] = {}

    def test_quick_run_finds_what_is_expected(self, quick, name):
        compare(quick(name).findings, expected(name, "quick"))

    @pytest.mark.slow
    def test_full_run_finds_what_is_expected(self, name):
        compare(module(name).run().findings, expected(name, "full"))

    def test_files_of_a_run(self, quick, name):
        report, folder = quick(name), quick.home / "runs" / name
        figures = {"descent.png"} | self.pictures[name] | (set() if name in LIKELIHOODS else {"criterion.png"})
        assert {path.name for path in folder.iterdir()} == figures | {"report.json", "arrays.npz"}
        for figure in figures:
            assert (folder / figure).stat().st_size > 10_000
        assert report.findings["summary"] and report.provenance["seed"] == 0

    def test_figures_are_drawn_from_the_saved_report_alone(self, quick, name, tmp_path):
        drawn = module(name, "figures").draw(quick(name), tmp_path)
        assert sorted(drawn) == sorted(tmp_path.iterdir())

    def test_it_says_what_it_is(self, name):
        text = (cli.studies()[name] / "README.md").read_text()
        assert f"invhyper run {name}" in text and "## What to see" in text and "## Sources" in text
        assert set(expected(name, "quick")) <= set(expected(name, "full"))


def module(name: str, part: str = "study"):
    """The code of a study: `study` or `figures`."""
    return cli._load(cli.studies()[name], part)


def quickly(home):
    """study name -> its report, run once with --quick, from the folder `home`."""
    done = {}

    def report(name: str) -> ih.Report:
        if name in IMAGING:
            pytest.importorskip("skimage")
        if name not in done:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(home)
                assert cli.main(["run", name, "--quick"]) == 0
            done[name] = home / "runs" / name
        return ih.Report.load(done[name])

    report.home = home
    return report


def expected(name: str, version: str) -> dict:
    """The figures of a study, `quick` or `full`."""
    return json.loads((cli.studies()[name] / "expected.json").read_text())[version]


def compare(found: dict, wanted: dict):
    """Each figure within its tolerance."""
    off = {
        key: (found[key], want["value"])
        for key, want in wanted.items()
        if not abs(found[key] - want["value"]) <= want.get("rtol", 0.0) * abs(want["value"]) + want.get("atol", 0.0)
    }
    assert off == {}, "found, expected"
