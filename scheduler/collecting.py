"""The collector of garbage waits while a round is decided.

A round of a large fleet makes hundreds of thousands of values, keeps most of them and leaves none in a cycle. Python's
collector counts what is new and walks through everything there is, which is the whole state, to find nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collections_wait() -> Iterator[None]:
    """No collection of cycles inside, in any thread; afterwards as before."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
