"""Linear maps on images: known answers, adjoints, matrices, symbols, derivatives, and what lineax does with them."""

import jax
import jax.numpy as jnp
import laws
import lineax as lx
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import scipy.sparse
import scipy.sparse.linalg as ssl

import invhyper as ih
from invhyper.operators import check_adjoint

BOUNDARIES = ["neumann", "periodic", "zero"]
SHAPES = [(9,), (6, 7), (4, 5, 3), (1, 2)]
# SciPy's names of the same three boundaries.
MODE = {"neumann": "reflect", "periodic": "wrap", "zero": "constant"}
RNG = np.random.default_rng(5)


def kernel(shape, sizes=(3, 4, 2)):
    return np.random.default_rng(1).standard_normal(sizes[: len(shape)])


def even_kernel(shape):
    """Its own mirror image along each axis."""
    quarter = kernel(shape, (2, 3, 2))
    for axis in range(quarter.ndim):
        quarter = np.concatenate([np.flip(quarter, axis), np.delete(quarter, 0, axis)], axis)
    return quarter


MAKERS = {
    "first differences": lambda shape, boundary: ih.Differences(shape, boundary),
    "second differences": lambda shape, boundary: ih.Differences(shape, boundary, order=2),
    "blur by a kernel": lambda shape, boundary: ih.Blur(kernel(shape), shape=shape, boundary=boundary),
    "blur by an even kernel": lambda shape, boundary: ih.Blur(even_kernel(shape), shape=shape, boundary=boundary),
    "Gaussian blur": lambda shape, boundary: ih.Blur(width=0.8, shape=shape, boundary=boundary),
}
EVERY = [
    pytest.param(make, shape, boundary, id=f"{name}, {boundary}, {'x'.join(map(str, shape))}")
    for name, make in MAKERS.items()
    for shape in SHAPES
    for boundary in BOUNDARIES
]


@pytest.mark.parametrize("make, shape, boundary", EVERY)
def test_adjoint_matrix_and_jax(make, shape, boundary):
    """The dot test; the sparse matrix and JAX give what NumPy gives; `out` is filled; x is left alone."""
    operator = make(shape, boundary)
    laws.dot_test(operator)
    x, y = RNG.standard_normal(operator.shape_in), RNG.standard_normal(operator.shape_out)
    before, image, back = x.copy(), operator.mv(x), operator.rmv(y)
    matrix = operator.to_scipy()
    assert isinstance(matrix, scipy.sparse.csr_array) and matrix.shape == operator.shape
    np.testing.assert_allclose((matrix @ x.ravel()).reshape(image.shape), image, atol=1e-12)
    np.testing.assert_allclose((matrix.T @ y.ravel()).reshape(back.shape), back, atol=1e-12)
    np.testing.assert_allclose(operator.mv(jnp.asarray(x)), image, atol=1e-12)
    np.testing.assert_allclose(operator.rmv(jnp.asarray(y)), back, atol=1e-12)
    single = jax.ShapeDtypeStruct(operator.shape_in, np.float32)
    assert operator.mv(x.astype(np.float32)).dtype == jax.eval_shape(operator.mv, single).dtype == np.float32
    out = np.full(operator.shape_out, np.nan)
    assert operator.mv(x, out=out) is out
    np.testing.assert_array_equal(out, image)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("make, shape, boundary", EVERY)
def test_symbol_diagonalises(make, shape, boundary):
    """A^T A = F^-1 symbol F in the basis of the operator's own boundary, and None in the other."""
    operator = make(shape, boundary)
    symbols = {name: operator.symbol(name) for name in ("neumann", "periodic")}
    expected = {boundary} - {"zero"}
    if operator.shape_in == operator.shape_out and not operator.tags and boundary == "neumann" and not operator._even():
        expected = set()
    assert {name for name, symbol in symbols.items() if symbol is not None} == expected
    x = RNG.standard_normal(shape)
    for name in expected:
        if name == "periodic":
            applied = scipy.fft.ifftn(symbols[name] * scipy.fft.fftn(x)).real
        else:
            applied = scipy.fft.idctn(symbols[name] * scipy.fft.dctn(x, norm="ortho"), norm="ortho")
        np.testing.assert_allclose(applied, operator.rmv(operator.mv(x)), atol=1e-12)


def test_ramp_has_constant_differences():
    ramp = 2.0 * np.arange(4)[:, None] - 3.0 * np.arange(5)
    for boundary, border in (("neumann", (0.0, 0.0)), ("periodic", (-6.0, 12.0))):
        down, right = ih.Differences((4, 5), boundary).mv(ramp)
        np.testing.assert_array_equal(down[:-1], np.full((3, 5), 2.0))
        np.testing.assert_array_equal(right[:, :-1], np.full((4, 4), -3.0))
        np.testing.assert_array_equal(down[-1], np.full(5, border[0]))
        np.testing.assert_array_equal(right[:, -1], np.full(4, border[1]))
    np.testing.assert_array_equal(ih.Differences((4, 5), "zero").mv(ramp)[0, -1], -ramp[-1])


def test_second_differences_of_a_parabola():
    parabola = np.arange(5.0) ** 2
    inner = [2.0, 2.0, 2.0]
    for boundary, first, last in (("neumann", 1.0, -7.0), ("periodic", 17.0, -23.0), ("zero", 1.0, -23.0)):
        assert ih.Differences((5,), boundary, order=2).mv(parabola).tolist() == [[first, *inner, last]]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("sizes", [(3, 3), (4, 2), (5, 4), (1, 7), (11, 9)])
def test_blur_is_the_convolution_of_scipy(boundary, sizes):
    image, h = RNG.standard_normal((12, 10)), RNG.standard_normal(sizes)
    expected = scipy.ndimage.convolve(image, h, mode=MODE[boundary])
    np.testing.assert_allclose(ih.Blur(h, boundary=boundary).mv(image), expected, atol=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_gaussian_is_that_of_scipy(boundary):
    """Against a Gaussian truncated at nine widths, one width per axis."""
    image = RNG.standard_normal((24, 30))
    expected = scipy.ndimage.gaussian_filter(image, (1.2, 0.7), mode=MODE[boundary], truncate=9)
    np.testing.assert_allclose(ih.Blur(width=[1.2, 0.7], boundary=boundary).mv(image), expected, atol=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_blur_of_a_point_is_the_kernel(boundary):
    point, h = np.zeros((9, 9)), kernel((9, 9))
    point[4, 4] = 1.0
    np.testing.assert_allclose(ih.Blur(h, boundary=boundary).mv(point)[3:6, 2:6], h, atol=1e-14)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_wide_kernels(boundary):
    """Kernels larger than the image, and Gaussians wider than it: a constant image stays as it is, or loses light."""
    image, h = RNG.standard_normal((3, 4)), RNG.standard_normal((9, 12))
    if boundary != "zero":
        flat = ih.Blur(width=7.0, boundary=boundary).mv(np.ones((3, 4)))
        np.testing.assert_allclose(flat, np.ones((3, 4)), rtol=1e-13)
    wide = ih.Blur(h, shape=(3, 4), boundary=boundary)
    np.testing.assert_allclose(wide.mv(image).ravel(), wide.to_scipy() @ image.ravel(), atol=1e-12)
    np.testing.assert_allclose(wide.mv(jnp.asarray(image)), wide.mv(image), atol=1e-12)
    check_adjoint(wide)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("widths", [0.05, 1.3, [1.1, 0.4]])
def test_derivative_in_the_width(boundary, widths):
    """d/dwidth of sum_i c_i (A u)_i, against the Gaussian's own derivative in NumPy (central, error h^2)."""
    image, c = RNG.standard_normal((7, 8)), RNG.standard_normal((7, 8))
    widths, h = np.asarray(widths), 1e-5
    slope = jax.jit(jax.grad(lambda w: jnp.vdot(c, ih.Blur(width=w, boundary=boundary).mv(image))))(widths)
    assert np.all(np.isfinite(slope))
    for entry in np.ndindex(widths.shape):
        step = np.zeros_like(widths)
        step[entry] = h
        ends = [np.vdot(c, ih.Blur(width=widths + s * step, boundary=boundary).mv(image)) for s in (1, -1)]
        np.testing.assert_allclose(slope[entry], (ends[0] - ends[1]) / (2 * h), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("boundary", ["neumann", "periodic"])
def test_derivative_of_the_symbol_in_the_width(boundary):
    """The symbol is differentiable too: a solver by transforms has the width in it."""
    symbol = lambda w: ih.Blur(width=w, shape=(4, 5), boundary=boundary).symbol(boundary)  # noqa: E731
    slope = jax.jacfwd(symbol)(0.9)
    np.testing.assert_allclose(slope, (symbol(0.9 + 1e-5) - symbol(0.9 - 1e-5)) / 2e-5, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_derivative_in_the_kernel(boundary):
    """A u is linear in the kernel: the derivative along dh is the blur by dh, even where h is even."""
    image, h, dh = RNG.standard_normal((7, 8)), even_kernel((7, 8)), RNG.standard_normal((3, 5))
    _, tangent = jax.jvp(lambda h: ih.Blur(h, boundary=boundary).mv(image), (jnp.asarray(h),), (jnp.asarray(dh),))
    np.testing.assert_allclose(tangent, ih.Blur(dh, boundary=boundary).mv(image), atol=1e-12)


def test_mask_keeps_and_forgets():
    keep = np.array([[True, False], [True, True]])
    image = np.array([[1.0, np.nan], [3.0, 4.0]])
    for to in (np.asarray, jnp.asarray):
        assert ih.Mask(keep).mv(to(image)).tolist() == [[1.0, 0.0], [3.0, 4.0]]
    assert ih.Mask(keep).symbol("neumann") is None
    assert ih.Mask(np.ones((2, 2))).symbol("neumann").tolist() == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize("kind", ["sparse", "dense", "LinearOperator"])
def test_from_scipy(kind):
    M = RNG.standard_normal((5, 6))
    given = {"sparse": scipy.sparse.csc_array(M), "dense": M, "LinearOperator": ssl.aslinearoperator(M)}[kind]
    operator = ih.from_scipy(given, (2, 3))
    laws.dot_test(operator)
    u = RNG.standard_normal((2, 3))
    np.testing.assert_allclose(operator.mv(u), M @ u.ravel(), atol=1e-13)
    np.testing.assert_allclose(operator.to_scipy().toarray(), M, atol=1e-15)


def host_only():
    """A function of NumPy with its transpose, and their matrix."""
    M = np.random.default_rng(3).standard_normal((4, 6))
    forward = lambda u: np.asarray(M @ np.ascontiguousarray(u).ravel())  # noqa: E731
    back = lambda v: np.ascontiguousarray(M.T @ np.asarray(v)).reshape(2, 3)  # noqa: E731
    return ih.from_functions(forward, back, (2, 3), (4,)), M


TRANSFORMS = {
    "grad": lambda f, u: jax.grad(lambda u: jnp.sum(f(u) ** 2))(u),
    "jit": lambda f, u: jax.jit(f)(u),
    "vmap": lambda f, u: jax.vmap(f)(jnp.stack([u, 2 * u])),
    "jvp": lambda f, u: jax.jvp(f, (u,), (2 * u,)),
    "linear_transpose": lambda f, u: jax.linear_transpose(f, u)(f(u)),
    "hessian": lambda f, u: jax.jit(jax.hessian(lambda u: jnp.sum(f(u) ** 3)))(u),
    "vmap of grad": lambda f, u: jax.vmap(jax.grad(lambda u: jnp.sum(f(u) ** 2)), 1)(jnp.stack([u, -u], 1)),
    "loop": lambda f, u: jax.lax.fori_loop(0, 3, lambda _, u: u + 0.1 * jax.grad(lambda u: jnp.sum(f(u) ** 2))(u), u),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_functions_of_numpy_under_jax(transform):
    """What JAX makes of the called-back functions is what it makes of their matrix."""
    operator, M = host_only()
    assert not operator.traceable
    u = jnp.asarray(RNG.standard_normal((2, 3)))
    found = TRANSFORMS[transform](operator.mv, u)
    expected = TRANSFORMS[transform](lambda u: jnp.asarray(M) @ u.ravel(), u)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, expected)


def test_functions_of_jax_are_traced():
    operator = ih.from_functions(lambda u: jnp.roll(u, 1), lambda v: jnp.roll(v, -1), (4,), (4,))
    assert operator.traceable and isinstance(operator.mv(np.arange(4.0)), np.ndarray)
    assert operator.mv(jnp.arange(4.0)).tolist() == [3.0, 0.0, 1.0, 2.0]


SQUARE = {
    "Gaussian": lambda: ih.Blur(width=0.6, shape=(5, 6), boundary="neumann"),
    "kernel": lambda: ih.Blur(np.array([[0.1, 0.7, 0.3]]), shape=(5, 6)),
    "sparse": lambda: ih.from_scipy(scipy.sparse.diags_array(np.arange(1.0, 31.0)), (5, 6), (5, 6)),
    "identity": lambda: ih.Identity((5, 6)),
}


@pytest.mark.parametrize("name", SQUARE)
def test_lineax_solves(name):
    """GMRES and LU with A, and CG with A^T A, find the u whose image is given."""
    operator, u = SQUARE[name](), RNG.standard_normal((5, 6))
    image = operator.mv(jnp.asarray(u))
    for solver in (lx.GMRES(1e-12, 1e-12, restart=30, max_steps=200), lx.LU()):
        np.testing.assert_allclose(lx.linear_solve(operator, image, solver).value, u, atol=1e-9)
    normal = operator.T @ operator
    found = lx.linear_solve(normal, operator.rmv(image), lx.CG(1e-13, 1e-13, max_steps=2000)).value
    np.testing.assert_allclose(found, u, atol=1e-8)


def test_lineax_solve_is_differentiated_in_the_width():
    """u(w) solves (A^T A + D^T D + I) u = y: the derivative of sum u against differences of dense solves."""
    y = RNG.standard_normal((4, 5))

    def total(width):
        A, D = ih.Blur(width=width, shape=(4, 5)), ih.Differences((4, 5))
        system = lx.TaggedLinearOperator(A.T @ A + D.T @ D + ih.Identity((4, 5)), lx.positive_semidefinite_tag)
        return jnp.sum(lx.linear_solve(system, jnp.asarray(y), lx.CG(1e-13, 1e-13)).value ** 2)

    def dense(width):
        A, D = ih.Blur(width=width, shape=(4, 5)).to_scipy().toarray(), ih.Differences((4, 5)).to_scipy()
        return np.sum(np.linalg.solve(A.T @ A + (D.T @ D).toarray() + np.eye(20), y.ravel()) ** 2)

    slope = jax.grad(total)(0.9)
    np.testing.assert_allclose(slope, (dense(0.9 + 1e-5) - dense(0.9 - 1e-5)) / 2e-5, rtol=1e-8)


@pytest.mark.slow
def test_hypergradient_in_width_and_weight():
    """Deblurring under a quadratic penalty: the blur is traced, the differences are called back on the host."""
    y, D = RNG.standard_normal((4, 5)), ih.Differences((4, 5))
    D = ih.from_scipy(ssl.aslinearoperator(D.to_scipy()), D.shape_in, D.shape_out)

    def loss(x, theta):
        blurred = ih.Blur(width=theta["width"], boundary="neumann").mv(x)
        return 0.5 * jnp.sum((blurred - y) ** 2) + 0.5 * theta["weight"] * jnp.sum(D.mv(x) ** 2)

    problem = ih.Bilevel(ih.Smooth(loss, np.zeros((4, 5))), ih.Truth(np.ones((4, 5))))
    laws.hypergradient(ih.Implicit(), problem, {"width": 0.7, "weight": 0.3})


def test_lineax_asks_and_is_answered():
    mask = ih.Mask(np.eye(2, dtype=bool))
    assert lx.is_diagonal(mask) and lx.is_symmetric(mask) and not lx.has_unit_diagonal(mask)
    assert lx.diagonal(mask).tolist() == [1.0, 0.0, 0.0, 1.0] and mask.T is mask
    D = ih.Differences((2, 3))
    assert not lx.is_symmetric(D) and D.T.T is D and lx.linearise(D) is D and lx.conj(D) is D
    assert lx.is_positive_semidefinite(D.T @ D) and not lx.is_positive_semidefinite(D @ D.T)
    np.testing.assert_allclose(D.as_matrix(), D.to_scipy().toarray())
    np.testing.assert_allclose(lx.materialise(D).as_matrix(), D.to_scipy().toarray())
    np.testing.assert_allclose(lx.diagonal(D.T @ D), (D.T @ D).to_scipy().diagonal())
    np.testing.assert_allclose((D.T @ D).symbol("neumann"), D.symbol("neumann") ** 2)


def test_products():
    blur, mask = ih.Blur(kernel((4, 5)), shape=(4, 5)), ih.Mask(RNG.random((4, 5)) > 0.5)
    product, u = mask @ blur, RNG.standard_normal((4, 5))
    laws.dot_test(product)
    np.testing.assert_array_equal(product.mv(u), mask.mv(blur.mv(u)))
    np.testing.assert_allclose(product.to_scipy() @ u.ravel(), product.mv(u).ravel(), atol=1e-13)
    np.testing.assert_array_equal(u @ blur, blur.rmv(u))


def test_operators_cross_jit_and_vmap_as_pytrees():
    u = jnp.asarray(RNG.standard_normal((6, 7)))
    for operator in (ih.Differences((6, 7)), ih.Blur(width=1.0, shape=(6, 7)), ih.Mask(np.ones((6, 7), bool))):
        np.testing.assert_allclose(jax.jit(lambda A, u: A.mv(u))(operator, u), operator.mv(u), atol=1e-13)
        assert jax.vmap(operator.mv)(jnp.stack([u, u])).shape == (2, *operator.shape_out)


REFUSED = {
    "NaN in the kernel": (lambda: ih.Blur(np.array([1.0, np.nan])), r"kernel with NaN or infinity at \[1\]"),
    "a kernel without axes": (lambda: ih.Blur(3.0), r"kernel of shape \(\)"),
    "kernel and width": (lambda: ih.Blur(np.ones(3), width=1.0), "one of the two"),
    "width 0": (lambda: ih.Blur(width=0.0), "width 0.0; wanted is a positive number"),
    "axes of the kernel": (lambda: ih.Blur(np.ones(3), shape=(4, 4)), "a kernel of 1 axes and images of shape"),
    "axes of the width": (lambda: ih.Blur(width=[1.0, 2.0]).at((4,)), "2 widths and images"),
    "unbound": (lambda: ih.Blur(width=1.0).shape, r"bind it by `at\(shape\)`"),
    "boundary": (lambda: ih.Differences((3,), "mirror"), "'mirror'; wanted is one of neumann, periodic, zero"),
    "order": (lambda: ih.Differences((3,), order=3), "order 3; wanted is 1 or 2"),
    "shape of nothing": (lambda: ih.Differences((3, 0)), r"shape \(3, 0\); wanted are"),
    "shape of x": (lambda: ih.Differences((3, 4)).mv(np.ones((4, 3))), r"shape \(4, 3\); maps shape \(3, 4\)"),
    "shape of y": (lambda: ih.Differences((3,)).rmv(np.ones(3)), r"shape \(3,\); its adjoint maps shape \(1, 3\)"),
    "mask of numbers": (lambda: ih.Mask(np.array([0.0, 2.0])), "other than True and False"),
    "empty mask": (lambda: ih.Mask(np.zeros(3, bool)), "keeps no pixel"),
    "shapes of a product": (lambda: ih.Identity((3,)) @ ih.Identity((4,)), "must be the same"),
    "shape of a matrix": (lambda: ih.from_scipy(np.ones((2, 3)), (2, 2)), r"shape_in \(2, 2\) of 4 numbers"),
    "NaN in a matrix": (lambda: ih.from_scipy(np.full((2, 2), np.nan), (2,)), "NaN or infinity"),
    "wrong adjoint": (
        lambda: ih.from_functions(np.cumsum, np.cumsum, (5,), (5,)),
        r"fails the dot test, <A x, y> = [-\d.]+ but <x, A\^T y> = [-\d.]+",
    ),
    "wrong rmatvec": (
        lambda: ih.from_scipy(ssl.LinearOperator((4, 4), matvec=np.cumsum, rmatvec=np.cumsum, dtype=float), (2, 2)),
        "fails the dot test",
    ),
    "changes its argument": (
        lambda: ih.from_functions(lambda u: np.multiply(u, 2.0, out=u), lambda v: 2.0 * v, (5,), (5,)),
        "mv changes its argument in place",
    ),
    "complex": (lambda: ih.from_functions(np.fft.fft, np.fft.ifft, (4,), (4,)), "a product is complex"),
    "complex matrix": (lambda: ih.from_scipy(1j * np.eye(4), (4,)), "complex operator"),
    "shape of a result": (lambda: ih.from_functions(np.diff, np.diff, (5,), (5,)), r"shape \(4,\), not \(5,\)"),
    "not finite": (lambda: ih.from_functions(lambda u: np.nan * u, np.array, (2,), (2,)), "not finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_are_sentences(name):
    make, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        make()


def test_no_sparse_matrix_of_a_wide_blur():
    with pytest.raises(TypeError, match="has no sparse matrix"):
        ih.Blur(width=2.0, shape=(64, 64)).to_scipy()
    with pytest.raises(TypeError, match="leave it out in JAX"):
        ih.Identity((2,)).mv(jnp.ones(2), out=np.ones(2))


@pytest.mark.parametrize("boundary", ["neumann", "periodic", "zero"])
def test_differences_of_eight_columns(boundary):
    """NumPy's negation in place is wrong for strides of 64 bytes (2.4.6): an image with 8 columns shows it."""
    D = ih.Differences((11, 8), boundary=boundary)
    image = np.random.default_rng(0).standard_normal((11, 8))
    np.testing.assert_allclose(D.mv(image).ravel(), D.to_scipy() @ image.ravel(), atol=1e-14)
