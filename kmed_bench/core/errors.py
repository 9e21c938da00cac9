"""The exception for a fault that the user can fix."""


class KmedError(Exception):
    """A fault that the user can fix.

    The message is one paragraph that names the thing, its value, the limit and the remedy;
    the command line prints it without a traceback and exits with 2.
    """
