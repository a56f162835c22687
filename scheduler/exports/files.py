"""Where an export goes: stdout, or a file that is there whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from scheduler.core.errors import InvalidValue, Unauthorised, Unavailable


@contextmanager
def writing(path: Path | None) -> Iterator[BinaryIO]:
    """A file to write into; None: stdout. The file takes its name when everything is written; where something raises,
    what was there before stays.

    Raises InvalidValue for a folder that is missing, Unauthorised and Unavailable as the file system says.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    building = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with building.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        building.replace(path)
    except FileNotFoundError as error:
        raise InvalidValue("folder", str(path.parent), "missing", "a folder that exists") from error
    except PermissionError as error:
        raise Unauthorised(f"{path} may not be written by this user") from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unavailable(f"{path} could not be written: {error.strerror}") from error
    finally:
        building.unlink(missing_ok=True)
