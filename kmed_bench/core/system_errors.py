"""What an error of the operating system says to the user: the path, the reason, the remedy."""

import errno
from pathlib import Path

from kmed_bench.core.files import cache_folder

_REMEDIES = {
    errno.ENOSPC: "Make room on the disk or choose another folder",
    errno.EDQUOT: "Make room within the quota or choose another folder",
    errno.EROFS: "The disk is mounted read-only; choose another folder",
    errno.EACCES: "Change the permissions or choose another folder",
    errno.EPERM: "Change the permissions or choose another folder",
    errno.EFBIG: "Allow larger files (ulimit -f) or choose another disk",
    errno.EEXIST: "Choose another folder",
    errno.ENOENT: "Check the path",
    errno.ENOTDIR: "Check the path",
    errno.EISDIR: "Check the path",
    errno.EMFILE: "Allow more open files (ulimit -n)",
}


def explain_os_error(error: OSError) -> str:
    """Return one line with the path, the reason that the system gives, and the remedy."""
    reason = " ".join((error.strerror or str(error) or type(error).__name__).split())
    if "temporary directory" in reason:  # of the module tempfile, whose error says ENOENT
        return f"{reason}; set TMPDIR to a folder that can be written, then start again."
    where = error.filename2 or error.filename or "a file, or standard output"
    remedy = _REMEDIES.get(error.errno or 0, "Remove the cause")
    cache = cache_folder().absolute()
    if "folder" in remedy and (Path(where).absolute() == cache.parent or Path(where).absolute().is_relative_to(cache)):
        remedy = "Set KMED_CACHE to a folder that can be written and has room"
    return f"{where} can't be read or written: {reason}. {remedy}, then start again."
