"""Which static shapes a model's inputs get, out of what its file declares and what the user gives. Needs no ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tuner.errors import UserError

Dims = Sequence[int | str | None]  # a size, the name of a size that is open, or an open one without a name


def resolve(declared: Mapping[str, Dims | None], given: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """The shape of every input; sizes of a named dimension hold for all inputs that use the name.

    Args:
        declared: what the file says of each input; None where it does not even say the rank.
        given: the user's shapes by input.

    Raises:
        UserError: ``unknown-input``, ``shape-contradiction``, ``missing-shape``.
    """
    for name in given:
        if name not in declared:
            raise UserError(
                f"The model has no input '{name}'.",
                code="unknown-input",
                hint=f"Its inputs are: {', '.join(declared) or 'none'}.",
            )
    sizes: dict[str, tuple[int, str]] = {}  # of a named dimension, and the input that says so
    for name, dims in declared.items():
        if name in given:
            _take(name, dims, given[name], sizes)
    return {
        name: tuple(given[name]) if name in given else _static(name, dims, sizes) for name, dims in declared.items()
    }


def _take(name: str, dims: Dims | None, shape: Sequence[int], sizes: dict[str, tuple[int, str]]) -> None:
    """Check a given shape against the declared one, and learn the sizes of named dimensions from it."""
    fits = all(size >= 1 for size in shape)
    if dims is not None:
        fits = fits and len(shape) == len(dims)
        fits = fits and all(not isinstance(dim, int) or dim == size for dim, size in zip(dims, shape, strict=False))
    if not fits:
        raise UserError(
            f"Shape {list(shape)} contradicts input '{name}', which the model declares as {_shown(dims)}.",
            code="shape-contradiction",
        )
    for dim, size in zip(dims or (), shape, strict=False):
        if isinstance(dim, str) and sizes.setdefault(dim, (size, name))[0] != size:
            raise UserError(
                f"Dimension '{dim}' is {sizes[dim][0]} in the shape of '{sizes[dim][1]}' but {size} in that of "
                f"'{name}'.",
                code="shape-contradiction",
            )


def _static(name: str, dims: Dims | None, sizes: Mapping[str, tuple[int, str]]) -> tuple[int, ...]:
    """The declared shape with what is known of named dimensions; all of it must be known."""
    if dims is not None:
        dims = [sizes[dim][0] if isinstance(dim, str) and dim in sizes else dim for dim in dims]
        known = tuple(dim for dim in dims if isinstance(dim, int))
        if len(known) == len(dims):
            return known
    raise UserError(
        f"Input '{name}' has no static shape: it is {_shown(dims)}.",
        code="missing-shape",
        hint=f"Give it, for example --shape {name}={_example(dims)}.",
    )


def _shown(dims: Dims | None) -> str:
    return "unknown" if dims is None else f"[{', '.join('?' if dim is None else str(dim) for dim in dims)}]"


def _example(dims: Dims | None) -> str:
    """Sizes that would do: one image of 224x224 where the input looks like images, else 1 for what is open."""
    if dims is None:
        return "1,3,224,224"
    usual = (1, 3, 224, 224) if len(dims) == 4 else (1,) * len(dims)
    return ",".join(str(dim if isinstance(dim, int) else size) for dim, size in zip(dims, usual, strict=True))
