"""Which files other processes have open or mapped, as far as the system tells this user."""

import contextlib
import os
from pathlib import Path

_PROCESSES = Path("/proc")
_PATH_FIELD = 5  # of a line of /proc/PID/maps, proc(5)


def files_in_use() -> dict[str, int]:
    """Return path to process id of each file that another process has open or mapped.

    Linux shows a user his own processes; those of other users, and of other machines that share the disk, are not
    seen. Other systems show none.
    """
    found: dict[str, int] = {}
    for process in _PROCESSES.glob("[0-9]*") if _PROCESSES.is_dir() else ():
        if int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            for handle in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    found[str(handle.readlink())] = int(process.name)
        with contextlib.suppress(OSError):
            for line in (process / "maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
                fields = line.split(maxsplit=_PATH_FIELD)
                if len(fields) > _PATH_FIELD:
                    found[fields[_PATH_FIELD]] = int(process.name)
    return found
