"""The machines that a kit is for: a Python version and a Linux platform."""

import dataclasses
import platform
import re
import sys

from packaging.tags import Tag, compatible_tags, cpython_tags

from kmed_bench.core.errors import KmedError

PYTHONS = ("3.11", "3.12", "3.13")
_PLATFORM = re.compile(r"manylinux_2_(\d+)_(x86_64|aarch64)")
# Names that wheels had before PEP 600, by the minor version of glibc 2 that they stand for.
_OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclasses.dataclass(frozen=True)
class Target:
    """A Python version, such as 3.11, and a platform as PEP 600 names it, such as manylinux_2_28_x86_64.

    Raises
    ------
    KmedError
        When this package does not run there, or the platform is none of PEP 600.
    """

    python: str
    platform: str

    def __post_init__(self) -> None:
        if self.python not in PYTHONS:
            raise KmedError(f"--python is {self.python!r}; this package runs on {', '.join(PYTHONS)}.")
        if not _PLATFORM.fullmatch(self.platform):
            raise KmedError(
                f"--platform is {self.platform!r}; kits are for Linux: manylinux_2_N_x86_64 or manylinux_2_N_aarch64, "
                "where 2.N is the glibc of the closed machine (`getconf GNU_LIBC_VERSION` prints it)."
            )

    @property
    def glibc_minor(self) -> int:
        """N of glibc 2.N, the oldest that the kit runs on."""
        return int(self.platform.split("_")[2])

    @property
    def machine(self) -> str:
        """What ``uname -m`` prints there."""
        return self.platform.split("_", 3)[3]

    @property
    def is_this_machine(self) -> bool:
        """Whether pip, which knows the markers of the Python that runs it alone, can resolve dependencies for it."""
        running = (sys.platform, platform.machine(), f"{sys.version_info[0]}.{sys.version_info[1]}")
        return running == ("linux", self.machine, self.python)

    def markers(self) -> dict[str, str]:
        """Return the environment in which markers of requirements (PEP 508) are judged."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
            "extra": "",
        }

    def platforms(self) -> list[str]:
        """Return the platforms whose wheels run there, the newest first."""
        found = []
        for minor in range(self.glibc_minor, 4, -1):
            found.append(f"manylinux_2_{minor}_{self.machine}")
            if minor in _OLD_NAMES:
                found.append(f"{_OLD_NAMES[minor]}_{self.machine}")
        return found

    def tags(self) -> frozenset[Tag]:
        """Return the tags of wheels that run there."""
        version = tuple(map(int, self.python.split(".")))
        interpreter = f"cp{version[0]}{version[1]}"
        return frozenset(
            [
                *cpython_tags(version, [interpreter], self.platforms()),
                *compatible_tags(version, interpreter, self.platforms()),
            ]
        )

    def pip_options(self) -> list[str]:
        """Return the options that make ``pip download`` choose wheels for it."""
        platforms = [word for name in self.platforms() for word in ("--platform", name)]
        return ["--only-binary", ":all:", "--implementation", "cp", "--python-version", self.python, *platforms]
