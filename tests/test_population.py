"""Many subjects under one theta: against closed forms, `Together`, and each other."""

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import invhyper as ih

EARLY, LATE = np.linspace(0.2, 2.6, 13), np.linspace(2.8, 5.0, 11)


def cells(times, data, phases, **options):
    """x' = -x + p_i sin(3 t + phase_i), x(0) = q: p_i is linear least squares."""
    return ih.Population(
        ih.Calibration(
            lambda t, x, p, theta, phase: -x + p * jnp.sin(3 * t + phase),
            lambda p, theta, phase: theta["q"],
            lambda t, x, p, theta, phase: x,
            times,
            data,
            noise=1.0,
            start=0.0,
            conditions=phases,
            solver=diffrax.Tsit5(),
            rtol=1e-10,
            atol=1e-10,
        ),
        **options,
    )


NAMES = ("a", "b", "c", "d", "e", "f", "g")
PHASES = np.linspace(0.0, 3.0, len(NAMES))


def measured(times, seed):
    """What each cell shows at its own times, with noise, and where it was looked at."""
    rng = np.random.default_rng(seed)
    rows = [times[: times.size - i] for i in range(len(NAMES))]
    truth = [0.9 * np.exp(-t) + (1 + 0.1 * i) * driven(t, i) for i, t in enumerate(rows)]
    return rows, [y + 0.1 * rng.standard_normal(y.size) for y in truth]


def driven(t, i):
    drive = {"poly": np.zeros(3), "size": np.ones(1), "rate": np.array([3.0]), "phase": PHASES[i : i + 1]}
    return zoo.driven(t, drive)


@pytest.fixture(scope="module")
def clinic():
    """The problem and its data; in three batches, the last of them filled up."""
    patch = pytest.MonkeyPatch()
    patch.setattr("invhyper.lower.population.BATCH", 3)
    fit, held = (measured(times, seed) for seed, times in enumerate((EARLY, LATE)))
    problem = ih.Bilevel(cells(*fit, PHASES, names=NAMES), ih.Misfit(cells(*held, PHASES)))
    yield problem, fit, held
    patch.undo()


def test_subjects_of_different_lengths_against_the_closed_form(clinic):
    problem, fit, held = clinic
    q, exact = 0.4, []
    for i, ((t, y), (late, seen)) in enumerate(zip(zip(*fit, strict=True), zip(*held, strict=True), strict=True)):
        exact.append(zoo.driven_fit(q, (y, np.exp(-t), driven(t, i)), (seen, np.exp(-late), driven(late, i))))
    p, value, slope = np.transpose(exact)
    found = ih.Implicit()(problem, {"q": q})
    np.testing.assert_allclose(found.solution.x, p, rtol=1e-8)
    assert found.value == pytest.approx(value.sum(), rel=1e-8)
    assert float(found.gradient["q"]) == pytest.approx(slope.sum(), rel=1e-8)
    assert found.certificate.error_estimate < 1e-6 * abs(slope.sum())
    assert "Population converged" in found.solution.result
    again = ih.Implicit()(problem, {"q": q}, warm=found)
    assert float(again.gradient["q"]) == pytest.approx(slope.sum(), rel=1e-8)


def test_some_of_the_subjects(clinic):
    problem, (times, data), _ = clinic
    some = problem.lower.subset([1, 4])
    assert some.names == ("b", "e") and some.size == 2
    np.testing.assert_array_equal(some.lowers.measured.mask.sum(axis=(1, 2)), [12, 9])
    with pytest.raises(ValueError, match=r"^Population subset\(slice\(7, None, None\)\) holds no subject"):
        problem.lower.subset(slice(7, None))


def test_a_list_of_subjects_is_what_together_makes_of_it():
    rng = np.random.default_rng(0)
    lowers = [ih.Ridge(rng.standard_normal((6, 3)), rng.standard_normal(6)) for _ in range(4)]
    truths = rng.standard_normal((4, 3))
    theta = {"l2": np.array([0.3, 1.0, 2.0])}
    one = ih.Implicit()(ih.Bilevel(ih.Population(lowers), ih.Truth(truths)), theta)
    other = ih.Implicit()(ih.Bilevel(ih.Together(lowers), ih.Mean([ih.Truth(t) for t in truths])), theta)
    np.testing.assert_allclose(one.solution.x, np.stack(other.solution.x), rtol=1e-12)
    np.testing.assert_allclose(one.gradient["l2"], 4 * np.asarray(other.gradient["l2"]), rtol=1e-10)
    matrix = ih.sensitivity(ih.Population(lowers), theta)["l2"]
    rows = [ih.sensitivity(lower, theta)["l2"] for lower in lowers]
    np.testing.assert_allclose(matrix, np.stack(rows), rtol=1e-10)


@pytest.fixture(scope="module")
def exploding():
    """x' = p x^power: with power 2 the third explodes before anything is measured."""

    def clinic(times, data, **options):
        return ih.Population(
            ih.Calibration(
                lambda t, x, p, theta, power: p * x**power,
                lambda p, theta, power: theta["x0"],
                lambda t, x, p, theta, power: x,
                times,
                [data] * 3,
                noise=0.1,
                start=1.0,
                conditions=[1.0, 0.5, 2.0],
                solver=diffrax.Tsit5(),
                max_steps=60,
                rtol=1e-6,
                atol=1e-6,
            ),
            names=["S1", "S2", "S3"],
            **options,
        )

    return clinic


def test_a_subject_that_fails_is_named(exploding):
    sentence = r"^Population: failed for 1 of 3 subjects \('S3'\): subject 'S3': Calibration: the simulation stopped at"
    with pytest.raises(ih.NotConverged, match=sentence):
        ih.solve(exploding([1.5, 2.5], [3.0, 5.0]), {"x0": 1.0})


def test_the_others_go_on_without_one_that_failed(exploding):
    fit, held = [1.5, 2.5], [2.0, 3.0]
    lower, misfit = (
        exploding(fit, [3.0, 5.0], skip_failed=True),
        ih.Misfit(exploding(held, [3.5, 6.0], skip_failed=True)),
    )
    found = ih.Implicit()(ih.Bilevel(lower, misfit), {"x0": 1.0})
    assert "goes on without 1 of 3 subjects ('S3')" in found.solution.result
    assert lower.failed(found.solution) == ["S3"] and np.isnan(found.solution.x).tolist() == [False, False, True]
    rest = ih.Bilevel(lower.subset([0, 1]), ih.Misfit(misfit.calibration.subset([0, 1])))
    alone = ih.Implicit()(rest, {"x0": 1.0})
    assert found.value == pytest.approx(alone.value, rel=1e-8)
    assert float(found.gradient["x0"]) == pytest.approx(float(alone.gradient["x0"]), rel=1e-6)


REFUSED = {
    "none": (lambda: ih.Population([]), ValueError, "was given no subject"),
    "one": (lambda: ih.Population(ih.Ridge(np.eye(2), np.ones(2))), TypeError, "one Ridge: a Calibration with cond"),
    "without conditions": (
        lambda: ih.Population(one_cell()),
        ValueError,
        "has no conditions to split",
    ),
    "on the host": (
        lambda: ih.Population([ih.Lasso(np.eye(2), np.ones(2))]), TypeError, "is solved on the host: use Tog"
    ),
    "no lower level": (lambda: ih.Population([3.0]), TypeError, r"subject 0 \(float\) is no lower level"),
    "other functions": (
        lambda: ih.Population([ih.Smooth(lambda x, theta: x**2, 0.0), ih.Smooth(lambda x, theta: x**2, 0.0)]),
        ValueError,
        "subject 1 is of another kind than subject 0",
    ),
    "other shapes": (
        lambda: ih.Population([ih.Ridge(np.eye(2), np.ones(2)), ih.Ridge(np.eye(3), np.ones(3))]),
        ValueError,
        r"subject 1 has arrays of shapes \[\(3, 3\), \(3,\)\], not those of subject 0",
    ),
    "too few names": (
        lambda: ih.Population([ih.Ridge(np.eye(2), np.ones(2))], names=["a", "b"]),
        ValueError,
        "names has 2 entries for 1 subjects",
    ),
}  # fmt: skip


def one_cell():
    functions = (lambda t, x, p, theta: -x), (lambda p, theta: p), (lambda t, x, p, theta: x)
    return ih.Calibration(*functions, EARLY, EARLY, noise=1.0, start=1.0)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, error, sentence = REFUSED[name]
    with pytest.raises(error, match=sentence):
        make()
