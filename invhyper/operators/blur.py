"""Blur: convolution with a kernel, by the fast Fourier or cosine transform."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.fft
import scipy.sparse
from jaxtyping import Array, Float

from invhyper.operators.boundary import check_boundary, check_shape
from invhyper.operators.operator import DENSE_LIMIT, Operator


class Blur(Operator):
    """Convolution of an image u of any dimension with a kernel h.

        (A u)[i] = sum_d h[c + d] u[i - d],   c = size // 2 along each axis

    with u beyond the border as the `boundary` says: "periodic" the opposite end, "neumann" the mirror image, "zero"
    nothing. Either `kernel` gives h, of any size, odd or even, not normalised here; or `width`, the standard deviation
    in pixels of a Gaussian,

        h[d] = exp(-d^2 / (2 width^2)) / sum of the same

    along each axis, over all distances d that occur: |d| <= n/2 in periodic images of n pixels, |d| <= n under
    "neumann", |d| < n under "zero". Nothing is truncated at so-and-so many widths, so A is smooth in `width`.

    **Arguments**: `kernel`, with one axis for each of the image; `width`, a number or one per axis; `shape` of the
    images (None: unbound; `at(shape)` binds it, and a product with an image takes the image's shape); `boundary`.
    Both `kernel` and `width` may be traced: derivatives are exact.

    **Raises** ValueError: none or both of kernel and width, NaN in the kernel, a width that is not positive, an
    unknown boundary, or a number of axes that differs from the image's.

    >>> import numpy as np, invhyper as ih
    >>> ih.Blur(np.array([0.25, 0.5, 0.25])).mv(np.array([0.0, 0.0, 4.0, 0.0])).round(12).tolist()
    [0.0, 1.0, 2.0, 1.0]
    >>> ih.Blur(width=1.0, shape=(5,), boundary="neumann").mv(np.array([0.0, 0.0, 1.0, 0.0, 0.0])).round(4).tolist()
    [0.0584, 0.2421, 0.3989, 0.2421, 0.0584]

    Hansen, Nagy and O'Leary (2006), doi:10.1137/1.9780898718874.
    """

    kernel: Float[Array, "..."] | None
    width: Float[Array, "..."] | None
    shape_in: tuple[int, ...] | None = eqx.field(static=True)
    boundary: str = eqx.field(static=True)

    def __init__(self, kernel=None, *, width=None, shape: tuple[int, ...] | None = None, boundary: str = "periodic"):
        if (kernel is None) == (width is None):
            raise ValueError("Blur wants a kernel or a width, one of the two")
        self.kernel = None if kernel is None else _kernel(kernel)
        self.width = None if width is None else _width(width)
        self.boundary = check_boundary("Blur", boundary)
        self.shape_in = None if shape is None else check_shape("Blur", shape)
        axes = self.kernel.ndim if self.width is None else self.width.size if self.width.ndim else None
        if shape is not None and axes is not None and axes != len(self.shape_in):
            given = f"a kernel of {axes} axes" if self.width is None else f"{axes} widths"
            raise ValueError(f"Blur was given {given} and images of shape {self.shape_in}: wanted is one for each axis")

    def at(self, shape: tuple[int, ...]) -> "Blur":
        """The same blur, bound to images of this shape."""
        return Blur(self.kernel, width=self.width, shape=shape, boundary=self.boundary)

    @property
    def shape_out(self):
        return self.shape_in

    @property
    def arrays(self):
        return (self.kernel if self.width is None else self.width,)

    @property
    def tags(self):
        return frozenset() if self.width is None or self.shape_in is None else frozenset({lx.symmetric_tag})

    def in_structure(self):
        if self.shape_in is None:
            raise ValueError("this Blur is bound to no shape yet: give it `shape`, or bind it by `at(shape)`")
        return super().in_structure()

    def out_structure(self):
        return self.in_structure()

    def mv(self, x, out=None):
        return super().mv(x, out) if self.shape_in is not None else self.at(np.shape(x)).mv(x, out)

    def rmv(self, y, out=None):
        return super().rmv(y, out) if self.shape_in is not None else self.at(np.shape(y)).rmv(y, out)

    def _forward(self, x, out):
        return self._convolve(x, adjoint=False)

    def _adjoint(self, y, out):
        return self._convolve(y, adjoint=True)

    def _convolve(self, x, adjoint: bool):
        host = isinstance(x, np.ndarray)
        if host and self.boundary == "neumann" and self.width is not None:
            return self._cosine(x)
        xp, fft = (np, scipy.fft) if host else (jnp, jnp.fft)
        grid, margins = self._grid(), self._margins()
        mirrors = self.boundary == "neumann"
        if mirrors:
            x = xp.pad(x, margins, mode="constant" if adjoint else "symmetric")
        spectrum = fft.rfftn(x, s=grid)
        for factor in self._transfer(grid, half=True, adjoint=adjoint):
            if host:
                spectrum *= factor
            else:
                spectrum = spectrum * factor
        full = fft.irfftn(spectrum, s=grid)
        if mirrors and adjoint:
            full = _fold(full, self.shape_in, margins, xp)
        elif self.boundary != "periodic":
            full = full[tuple(slice(b, b + n) for (b, _), n in zip(margins, self.shape_in, strict=True))]
        return full.astype(x.dtype, copy=self.boundary == "zero")

    def _cosine(self, x):
        """The Gaussian under the mirrored boundary in NumPy (JAX's cosine transform is slower than its Fourier one)."""
        spectrum = scipy.fft.dctn(x, norm="ortho")
        for factor in self._cosine_transfer():
            spectrum *= factor
        return scipy.fft.idctn(spectrum, norm="ortho", overwrite_x=True)

    def _reach(self):
        """The largest distance along each axis at which the kernel is not zero, at most n - 1."""
        if self.width is None:
            reach = [m // 2 for m in self.kernel.shape]
        elif isinstance(self.width, np.ndarray):  # exp(-x^2 / 2) is 0.0 in double precision beyond x = 39
            reach = np.broadcast_to(np.ceil(39 * self.width), len(self.shape_in))
        else:
            reach = self.shape_in
        return [int(min(r, n - 1)) for r, n in zip(reach, self.shape_in, strict=True)]

    def _margins(self):
        """How many pixels beyond the border, at both ends of each axis, the convolution sees of the mirror image."""
        if self.boundary != "neumann":
            return [(0, 0)] * len(self.shape_in)
        return [(r, r) if 2 * r < n else (0, n) for r, n in zip(self._reach(), self.shape_in, strict=True)]

    def _grid(self):
        """The periodic grid on which the convolution is done."""
        if self.boundary == "periodic":
            return self.shape_in
        reach = self._reach() if self.boundary == "zero" else [sum(margin) for margin in self._margins()]
        sizes = [(n, n + r) for n, r in zip(self.shape_in, reach, strict=True)]
        # an image and its whole mirror image have the period 2 n, which must be kept
        return tuple(m if m == 2 * n else scipy.fft.next_fast_len(m, real=True) for n, m in sizes)

    def _transfer(self, grid, half: bool, adjoint: bool = False):
        """The transform of the kernel on the grid, as factors to multiply (half: the last axis of a real transform)."""
        if self.width is not None:
            axes = range(len(grid))
            sizes = [n // 2 + 1 if half and axis == axes[-1] else n for axis, n in enumerate(grid)]
            return [_along(self._gaussian(axis, grid[axis])[: sizes[axis]], axis, len(grid)) for axis in axes]
        if isinstance(self.kernel, np.ndarray):
            kernel, given = self.kernel, (self.kernel.tobytes(), self.kernel.shape, self.kernel.dtype.str)
            limits = self.shape_in if self.boundary == "zero" else None
            return [_kernel_transfer(*given, grid, limits, half, adjoint)]
        kernel = _on_grid(self.kernel, grid, self.shape_in if self.boundary == "zero" else None, jnp)
        transfer = jnp.fft.rfftn(kernel) if half else jnp.fft.fftn(kernel)
        return [transfer.conj() if adjoint else transfer]

    def _gaussian(self, axis, size):
        """The real transform of the Gaussian along one axis, on a periodic grid of this size."""
        width = self.width[axis] if self.width.ndim else self.width
        limit = self.shape_in[axis] if self.boundary == "zero" else size
        if isinstance(width, jax.Array):
            return _gaussian_transfer(width, size, limit, jnp)
        return _kept_gaussian_transfer(float(width), size, limit)

    def _even(self) -> bool:
        """Whether the kernel is its own mirror image along each axis: then the cosine transform diagonalises it."""
        if isinstance(self.kernel, jax.core.Tracer) or any(m % 2 == 0 for m in self.kernel.shape):
            return False
        kernel = np.asarray(self.kernel)
        return all(np.array_equal(kernel, np.flip(kernel, axis)) for axis in range(kernel.ndim))

    def _cosine_transfer(self):
        """The eigenvalues under the mirrored boundary, as factors to multiply."""
        factors = self._transfer(tuple(2 * n for n in self.shape_in), half=True)
        if self.width is None:
            return [factor.real[tuple(slice(n) for n in self.shape_in)] for factor in factors]
        return [factor[:n] for factor, n in zip(factors, self.shape_in, strict=True)]

    def symbol(self, boundary):
        """|h^|^2 for the blur's own boundary: periodic, or neumann where the kernel is even along each axis."""
        self.in_structure()
        if boundary != self.boundary or boundary == "zero":
            return None
        if boundary == "periodic":
            factors = self._transfer(self.shape_in, half=False)
        elif self.width is not None or self._even():
            factors = self._cosine_transfer()
        else:
            return None
        product = functools.reduce(lambda a, b: a * b, factors)
        return product.real**2 + product.imag**2

    def to_scipy(self):
        """The sparse matrix of a kernel. TypeError: a Gaussian, or another kernel too wide to be written out."""
        self.in_structure()
        pixels = self.in_size()
        if self.width is not None or self.kernel.size * pixels > 16 * DENSE_LIMIT:
            return super().to_scipy()
        kernel, sites = np.asarray(self.kernel), np.arange(pixels).reshape(self.shape_in)
        matrix = scipy.sparse.csr_array((pixels, pixels))
        for place, weight in np.ndenumerate(kernel):
            source, inside = sites, np.ones(self.shape_in, bool)
            for axis, (n, m) in enumerate(zip(self.shape_in, kernel.shape, strict=True)):
                index = np.arange(n) - (place[axis] - m // 2)
                if self.boundary == "neumann":
                    index = np.minimum(index % (2 * n), (-1 - index) % (2 * n))
                inside = inside & _along(((index >= 0) & (index < n)) | (self.boundary != "zero"), axis, kernel.ndim)
                source = np.take(source, index % n, axis)
            rows, columns = sites[inside], source[inside]
            matrix += scipy.sparse.csr_array((np.full(rows.size, weight), (rows, columns)), shape=matrix.shape)
        return matrix


def _kernel(kernel):
    if isinstance(kernel, jax.core.Tracer):
        return kernel
    kernel = kernel if isinstance(kernel, jax.Array) else np.asarray(kernel)
    kernel = kernel.astype(float) if kernel.dtype.kind in "biu" else kernel
    if kernel.ndim == 0 or kernel.size == 0:
        raise ValueError(f"Blur was given a kernel of shape {kernel.shape}; wanted is one axis for each of the image")
    if not np.all(np.isfinite(kernel)):
        where = np.argwhere(~np.isfinite(np.asarray(kernel)))[0].tolist()
        raise ValueError(f"Blur was given a kernel with NaN or infinity at {where}: wanted are finite numbers")
    return kernel


def _width(width):
    if isinstance(width, jax.core.Tracer):
        return width
    width = width if isinstance(width, jax.Array) else np.asarray(width, dtype=float)
    if width.ndim > 1 or not np.all(np.isfinite(width)) or not np.all(width > 0):
        raise ValueError(
            f"Blur was given the width {width.tolist()}; wanted is a positive number of pixels, or one for each axis "
            "(leave the operator out where there is no blur)"
        )
    return width


def _along(values, axis, ndim):
    return values.reshape((-1,) + (1,) * (ndim - axis - 1))


def _fold(x, shape, margins, xp):
    """The adjoint of the mirror image in the margins: what stands there is added where it came from."""
    for axis, (n, (before, after)) in enumerate(zip(shape, margins, strict=True)):
        ahead, image, behind = xp.split(x, [before, before + n], axis)
        behind = xp.split(behind, [after], axis)[0]
        left, right = [[(0, 0)] * x.ndim for _ in range(2)]
        left[axis], right[axis] = (0, n - before), (n - after, 0)
        x = image + xp.pad(xp.flip(ahead, axis), left) + xp.pad(xp.flip(behind, axis), right)
    return x


def _on_grid(kernel, grid, limits, xp):
    """The kernel on a periodic grid, its centre at the origin, wrapped; entries beyond `limits` reach no pixel."""
    places = [np.arange(m) - m // 2 for m in kernel.shape]
    if limits is not None:
        kept = [np.flatnonzero(np.abs(d) < n) for d, n in zip(places, limits, strict=True)]
        kernel = kernel[np.ix_(*kept)]
        places = [d[k] for d, k in zip(places, kept, strict=True)]
    index = np.ix_(*[d % n for d, n in zip(places, grid, strict=True)])
    if xp is jnp:
        return jnp.zeros(grid, kernel.dtype).at[index].add(kernel)
    whole = np.zeros(grid, kernel.dtype)
    np.add.at(whole, index, kernel)
    return whole


def _gaussian_transfer(width, size, limit, xp):
    """The real transform of a Gaussian on a periodic grid; distances from `limit` on carry nothing."""
    distance = np.minimum(np.arange(size), size - np.arange(size))
    weights = xp.exp(-0.5 * (distance / width) ** 2) * (distance < limit)
    return (scipy.fft if xp is np else jnp.fft).fft(weights / weights.sum()).real


@functools.lru_cache(maxsize=8)
def _kept_gaussian_transfer(width, size, limit):
    """Kept for the last few widths: a loop on the host applies the same one many times."""
    transfer = _gaussian_transfer(width, size, limit, np)
    transfer.flags.writeable = False
    return transfer


@functools.lru_cache(maxsize=4)
def _kernel_transfer(buffer, shape, dtype, grid, limits, half, adjoint):
    """Kept for the last few kernels: a loop on the host applies the same one many times."""
    kernel = _on_grid(np.frombuffer(buffer, dtype).reshape(shape), grid, limits, np)
    transfer = scipy.fft.rfftn(kernel) if half else scipy.fft.fftn(kernel)
    transfer = transfer.conj() if adjoint else transfer
    transfer.flags.writeable = False
    return transfer
