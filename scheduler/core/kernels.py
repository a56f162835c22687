"""Loops that may be compiled: one source, run as plain Python or, where `numba` is installed, as machine code.

A kernel is a pure function over integers and arrays, written so that both ways give the same bytes; calling it runs the
plain Python, which is the reference. `compiled` is the fast way for inputs whose size pays for compilation (seconds the
first time on a machine, kept on disk after that), so callers choose by size: see `worth_compiling`. Without `numba`
(extra `compiled`) it is the plain Python too, slower and the same.

What is kept on disk is used again only while everything that went into it is the same: the kernel's own file, and the
code and numbers of all kernels and constants that it uses, of whatever module.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from hashlib import sha256
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


class Compiler:
    """Whether machine code may be used in this process, and whether it would have been. Set by whoever makes it beside
    the work that must not wait for it (`scheduler.warming`).
    """

    ready: bool = True
    wanted: bool = False


COMPILER = Compiler()


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
        # Numba itself looks at the age of the kernel's own file alone.
        kept = made._cache._cache_file  # type: ignore[attr-defined]  # noqa: SLF001
        kept._source_stamp = (kept._source_stamp, ingredients(self.plain))  # noqa: SLF001
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


def ingredients(plain: Callable[..., Any]) -> str:
    """A hash of the code and numbers that a kernel is made of, those of the kernels that it calls included."""
    found: dict[str, str] = {}
    waiting = [plain]
    while waiting:
        function = waiting.pop()
        code = function.__code__
        names = {name: function.__globals__.get(name) for name in code.co_names}
        numbers = sorted((name, value) for name, value in names.items() if isinstance(value, int))
        key = f"{function.__module__}.{function.__qualname__}"
        found[key] = repr((code.co_code, code.co_consts, code.co_names, numbers))
        called = (value.plain for value in names.values() if isinstance(value, Kernel))
        waiting += [each for each in called if f"{each.__module__}.{each.__qualname__}" not in found]
    return sha256(repr(sorted(found.items())).encode()).hexdigest()


def worth_compiling(steps: int) -> bool:
    """Whether work of so many steps of plain Python is worth machine code, and that may be used."""
    if numba is None or steps < WORTH_COMPILING_STEPS:
        return False
    COMPILER.wanted |= not COMPILER.ready
    return COMPILER.ready
