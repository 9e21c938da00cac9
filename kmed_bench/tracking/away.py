"""Tracking servers and databases that do not answer for a while: how that is told apart from a refusal, and waited for.

MLflow tries a request to a server again for about four minutes without a word (MLFLOW_HTTP_REQUEST_MAX_RETRIES), and
one to a database not at all.
"""

import logging
import random
import re
import sqlite3
import time
from http import HTTPStatus

import requests
import sqlalchemy
from mlflow.exceptions import RestException

from kmed_bench.core.addresses import without_password
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking.reach import DATABASES, check_reach
from kmed_bench.tracking.refusals import causes, refused

PATIENCE_S = 30 * 60.0
"""Longest wait for a store that is away, where work can't go on without it."""
_AGAIN_S = 5.0
"""The same for a store that was given up before, so that the runs that end then do not each wait so long."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Pauses between two tries: doubled from the first to the longest."""
_AWAY = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
_given_up: set[str] = set()
_NO_ANSWER = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
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
    if isinstance(error, (AwayError, *_NO_ANSWER)):
        return True
    if isinstance(error, requests.exceptions.RetryError):  # "too many 503 error responses"
        status = re.search(r"too many (\d{3}) error", str(error))
        return status is not None and int(status[1]) in _AWAY
    if isinstance(error, RestException):
        return error.get_http_status_code() in _AWAY  # type: ignore[no-untyped-call]
    if isinstance(error, sqlalchemy.exc.DBAPIError) and not isinstance(error.orig, sqlite3.Error):
        broken = sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError
        return error.connection_invalidated or isinstance(error, broken)
    return False


def pause_before(attempt: int) -> float:
    """Return the seconds to wait before a try, the first being 0; drawn, so that many processes do not come at once."""
    return random.Random().uniform(0.5, 1.0) * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempt, 16))


def await_store(uri: str, patience_s: float, kept: str = "") -> None:
    """Return once a server or a database answers; say after a moment what is waited for.

    Parameters
    ----------
    kept : str
        What waits for it, as the end of a sentence in `give_up`'s message.

    Raises
    ------
    AwayError
        When it does not answer in time.
    """
    begun_s, attempt, patience_s = time.monotonic(), 0, patience_for(uri, patience_s)
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
                raise give_up(uri, patience_s, kept) from error
        if attempt == 0:
            say_waiting(uri, patience_s)
        time.sleep(min(pause_before(attempt), max(0.0, patience_s - waited_s)))
        attempt += 1


def patience_for(uri: str, patience_s: float) -> float:
    """Return the longest wait for a store: the usual one, or a short one where it was given up before."""
    return min(patience_s, _AGAIN_S) if uri in _given_up else patience_s


def say_waiting(uri: str, patience_s: float) -> None:
    """Log what is waited for, and how long."""
    log.warning("Waiting for the tracking store %s, which does not answer, for up to %.0f s.", shown(uri), patience_s)


def give_up(uri: str, waited_s: float, kept: str = "") -> AwayError:
    """Return the error that ends a wait; the next one for the same store is short."""
    _given_up.add(uri)
    return AwayError(
        f"The tracking store {shown(uri)} has not answered for {waited_s:.0f} s, and this can't end without it. What "
        f"was computed stays in the results folder{kept}; start the store, and give the same command with --resume."
    )


def shown(uri: str) -> str:
    """Return a store's address without its password."""
    return without_password(uri)
