"""A single check that a tracking server or database answers at all: MLflow would retry for minutes."""

import contextlib
import socket
import urllib.error
import urllib.request

from sqlalchemy import make_url

_ANSWER_WITHIN_S = 10.0
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def check_reach(uri: str) -> None:
    """Raise the system's error if a server, or a database's port, does not answer; files are not asked.

    Raises
    ------
    OSError, ValueError, KeyError, sqlalchemy.exc.ArgumentError
        When there is no answer, or the address is not valid.
    """
    if uri.startswith(("http://", "https://")):
        # An error of HTTP is an answer; whether the request is allowed is for MLflow to find out.
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_ANSWER_WITHIN_S).close()
    elif uri.startswith(tuple(_DATABASE_PORTS)):
        address = make_url(uri)
        port = address.port or _DATABASE_PORTS[address.get_backend_name()]
        if address.host:  # without one it is a local socket, which answers at once
            socket.create_connection((address.host, port), timeout=_ANSWER_WITHIN_S).close()
