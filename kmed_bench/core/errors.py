"""The exception for a fault that the user can fix, and how others are quoted in one."""


class KmedError(Exception):
    """A fault that the user can fix.

    The message is one paragraph that names the thing, its value, the limit and the remedy;
    the command line prints it without a traceback and exits with 2. Line breaks in what it quotes become spaces.
    """

    def __str__(self) -> str:
        return " ".join(line.strip() for line in super().__str__().splitlines())


def brief(error: object, limit: int = 200) -> str:
    """Return the first line of what a library says, cut to ``limit`` characters: it may quote a whole file."""
    line = " ".join(str(error).strip().partition("\n")[0].split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
