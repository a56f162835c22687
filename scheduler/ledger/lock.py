"""One process owns a journal: an exclusive `flock` on `<path>.lock`, which holds the owner's process id.

The kernel drops the lock with the process, however it ends, so a crash leaves nothing to clean up. The lock file itself
stays: removing it would let two processes lock two different files of one name. A child made by `fork` without `exec`
would share the lock; Tenor starts its children by `exec`.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from scheduler.core.errors import Conflict, InvalidValue, Unauthorised, Unavailable


class Lock:
    """Holds the lock of `path` from its making until `close`.

    Raises Conflict naming the owner where another holds it, InvalidValue where the folder is missing, Unauthorised
    where the lock file may not be written, Unavailable where the file system does not answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(path.name + ".lock")
        self._file = _opened(self.path)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._file, 32, 0).decode(errors="replace").strip()
            os.close(self._file)
            raise Conflict(f"{path} is owned by the running process {owner or 'that just started'}") from None
        except OSError as error:
            os.close(self._file)
            raise Unavailable(f"{self.path} could not be locked: {error.strerror}") from error
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(self._file)
            raise Unavailable(f"{self.path} could not be written: {error.strerror}") from error

    def close(self) -> None:
        """Gives the lock up. Closing twice does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidValue("folder", str(path), "missing", "a folder that exists") from error
    except PermissionError as error:
        raise Unauthorised(f"{path} may not be written by this user") from error
    except OSError as error:
        raise Unavailable(f"{path} could not be opened: {error.strerror}") from error
