"""What the gangs of these tests run: leaves a file when it begins and one when it has run, each once an attempt.

`python command.py FOLDER SECONDS`. Files are made with O_EXCL, so running an attempt's worker twice is seen: the second
exits 99. On SIGTERM it leaves `.stopped` and exits 0.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType


def leave(folder: Path, kind: str, content: str) -> None:
    """`GANG.ATTEMPT.RANK.KIND`, which must not be there yet."""
    environment = os.environ
    name = f"{environment['TENOR_GANG']}.{environment['TENOR_ATTEMPT']}.{environment['RANK']}.{kind}"
    try:
        with (folder / name).open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        os._exit(99)


def main() -> None:
    """Sleep the seconds, unless told to stop."""
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])

    def on_term(_number: int, _frame: FrameType | None) -> None:
        leave(folder, "stopped", "")
        os._exit(0)

    signal.signal(signal.SIGTERM, on_term)
    leave(folder, "began", f"{os.getpid()} {os.environ['TENOR_NODE']}")
    time.sleep(seconds)
    leave(folder, "ran", "")


if __name__ == "__main__":
    main()
