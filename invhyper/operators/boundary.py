"""What stands beyond the border of an image, by its common names."""

import math

BOUNDARIES = ("neumann", "periodic", "zero")


def check_boundary(name: str, boundary: str) -> str:
    """The boundary, or a ValueError that lists the three: "neumann" mirrors the image about its border, "periodic"
    repeats it, "zero" puts zeros.
    """
    if boundary not in BOUNDARIES:
        raise ValueError(f"{name} was given the boundary {boundary!r}; wanted is one of {', '.join(BOUNDARIES)}")
    return str(boundary)


def check_shape(name: str, shape) -> tuple[int, ...]:
    """An image shape as a tuple of positive integers, or a ValueError."""
    given, shape = shape, (shape,) if isinstance(shape, int) else tuple(shape)
    if not shape or math.prod(shape) < 1 or any(int(n) != n or n < 1 for n in shape):
        raise ValueError(f"{name} was given the shape {given!r}; wanted are one or more positive whole numbers")
    return tuple(int(n) for n in shape)
