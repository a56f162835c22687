"""Loops that may be compiled: one source, run as plain Python or, where `numba` is installed, as machine code.

A kernel is a pure function over integers and arrays, written so that both ways give the same bytes; calling it runs the
plain Python, which is the reference. `compiled` is the fast way for inputs whose size pays for compilation (seconds the
first time on a machine, kept on disk after that), so callers choose by size: see `worth_compiling`. Without `numba`
(extra `compiled`) it is the plain Python too, slower and the same.

A kernel may call kernels of its own module only: what is kept on disk is told apart by one file's age.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Generic, ParamSpec, TypeVar

numba: Any
try:
    import numba
except ImportError:  # the extra is not installed
    numba = None

P = ParamSpec("P")
R = TypeVar("R")

WORTH_COMPILING_STEPS = 2_000_000
"""Steps of plain Python (about a tenth of a microsecond each) from which on loading machine code pays."""


class Kernel(Generic[P, R]):
    """See the module. `kernel(f)` makes one."""

    def __init__(self, plain: Callable[P, R]) -> None:
        self.plain = plain
        self.__doc__ = plain.__doc__
        self.__name__ = plain.__name__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The plain Python, with every kernel that it calls."""
        return self.plain(*args, **kwargs)

    @cached_property
    def compiled(self) -> Callable[P, R]:
        """The machine code, with every kernel that it calls; the plain Python where there is no compiler."""
        if numba is None:
            return self.plain
        made: Callable[P, R] = numba.njit(cache=True, nogil=True)(self.plain)
        return made

    def at(self, steps: int) -> Callable[P, R]:
        """The way that suits so many steps of plain Python."""
        return self.compiled if worth_compiling(steps) else self.plain

    @property
    def _numba_type_(self) -> Any:
        """What a compiled kernel sees when it calls this one."""
        return self.compiled._numba_type_  # type: ignore[attr-defined]


def kernel(plain: Callable[P, R]) -> Kernel[P, R]:
    """A function over integers and arrays that may be compiled."""
    return Kernel(plain)


def worth_compiling(steps: int) -> bool:
    """Whether work of so many steps of plain Python is worth machine code."""
    return numba is not None and steps >= WORTH_COMPILING_STEPS
