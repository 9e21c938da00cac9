"""Tracking servers and databases that do not answer for a while: how that is told apart from a refusal, and waited for.

MLflow tries a request to a server again for about four minutes without a word (MLFLOW_HTTP_REQUEST_MAX_RETRIES), and
one to a database not at all.
"""

import logging
import random
import re
import sqlite3
import time

import requests
import sqlalchemy
from mlflow.exceptions import RestException

from kmed_bench.core.addresses import without_password
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking.reach import DATABASES, NO_ANSWER, check_reach
from kmed_bench.tracking.refusals import causes, refused

PATIENCE_S = 30 * 60.0
"""Longest wait for a store that is away, where work can't go on without it."""
_AGAIN_S = 5.0
"""The same for a store that was given up before, so that the runs that end then do not each wait so long."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
"""Pauses between two tries: doubled from the first to the longest."""
_given_up: set[str] = set()
_CONNECTION_LOST = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
log = logging.getLogger(__name__)


class AwayError(KmedError):
    """A tracking server or database stayed away longer than one waits for it."""


def is_remote(uri: str) -> bool:
    """Return whether a store is a server or a database server, which may be away while this machine works."""
    return uri.startswith(("http://", "https://", *DATABASES))


def is_away(error: BaseException) -> bool:
    """Return whether an error means that a server or a database did not answer, and the same may succeed later.

    What MLflow answers with HTTP 500 is not: a fault of the server stays one.
    """
    return refused(error) is None and any(map(_says_away, causes(error)))


def _says_away(error: BaseException) -> bool:
    if isinstance(error, (AwayError, *_CONNECTION_LOST)):
        return True
    if isinstance(error, requests.exceptions.RetryError):  # "too many 503 error responses"
        status = re.search(r"too many (\d{3}) error", str(error))
        return status is not None and int(status[1]) in NO_ANSWER
    if isinstance(error, RestException):
        return error.get_http_status_code() in NO_ANSWER  # type: ignore[no-untyped-call]
    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code in NO_ANSWER
    if isinstance(error, sqlalchemy.exc.DBAPIError) and not isinstance(error.orig, sqlite3.Error):
        broken = sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError
        return error.connection_invalidated or isinstance(error, broken)
    return False


def pause_before(attempt: int) -> float:
    """Return the seconds to wait before a try, the first being 0; drawn, so that many processes do not come at once."""
    return random.Random().uniform(0.5, 1.0) * min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(attempt, 16))


def await_store(uri: str, patience_s: float) -> None:
    """Return once a server or a database answers; if it does not at once, log what is waited for.

    Raises
    ------
    AwayError
        When it does not answer in time.
    """
    begun_s, attempt = time.monotonic(), 0
    while True:
        try:
            check_reach(uri)
            _given_up.discard(uri)
            return
        except Exception as error:  # drivers, HTTP and MLflow each raise their own types here
            if not is_away(error):
                raise
            waited_s = time.monotonic() - begun_s
            if waited_s >= patience_s:
                raise give_up(uri, patience_s) from error
        if attempt == 0:
            say_waiting(uri, patience_s)
        time.sleep(min(pause_before(attempt), max(0.0, patience_s - waited_s)))
        attempt += 1


def patience_for(uri: str, patience_s: float) -> float:
    """Return the longest wait for a store: the usual one, or a short one where it was given up before."""
    return min(patience_s, _AGAIN_S) if uri in _given_up else patience_s


def say_waiting(uri: str, patience_s: float) -> None:
    """Log what is waited for, and how long."""
    log.warning(
        "Waiting for the tracking store %s, which does not answer, for up to %.0f s.", without_password(uri), patience_s
    )


def give_up(uri: str, waited_s: float, kept: str = "") -> AwayError:
    """Return the error that ends a wait; the next one for the same store is short.

    Parameters
    ----------
    kept : str
        What else is kept for it, as the end of a sentence.
    """
    _given_up.add(uri)
    return AwayError(
        f"The tracking store {without_password(uri)} has not answered for {waited_s:.0f} s, and this can't end without "
        f"it. What was computed stays in the results folder{kept}; start the store, and give the same command with "
        "--resume."
    )
