"""Servers that refuse a request: wrong credentials, a missing permission, a certificate that can't be verified."""

import re
from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import urlsplit

import requests
from mlflow.environment_variables import MLFLOW_TRACKING_TOKEN
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import read_mlflow_creds

from kmed_bench.core.addresses import without_password
from kmed_bench.core.errors import KmedError

_CHARS = 200
_VARIABLES = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


class RefusedError(KmedError):
    """A server refused a request, or its certificate was refused here; trying again changes nothing."""


def refused(error: BaseException, uri: str = "MLflow's server") -> RefusedError | None:
    """Return what a refusal means and its remedy; None if an error is nothing of the kind.

    Parameters
    ----------
    uri : str
        The tracking server's address if it is known, or that of a database, which refuses in words of its own.
    """
    for cause in causes(error):
        if isinstance(cause, RefusedError):
            return cause
        if (text := _explain(cause, uri)) is not None:
            return RefusedError(text)
    return None


def check_refused(error: BaseException, uri: str) -> None:
    """Raise RefusedError if a server refused to show something, which is not the same as having nothing to show."""
    if refusal := refused(error, uri):
        raise refusal from error


def is_forbidden(error: BaseException) -> bool:
    """Tell whether a server's answer was HTTP 403, which MLflow's also gives for a run that it does not have."""
    return any(_status(cause) == HTTPStatus.FORBIDDEN for cause in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, or while handling; MLflow does not always name the cause."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _explain(error: BaseException, uri: str) -> str | None:
    shown, text = without_password(uri), " ".join(without_password(str(error)).split())
    if isinstance(error, requests.exceptions.SSLError):
        reason = re.search(r"\] ([^'\"]+?)(?: \(_ssl|['\")])", text)
        return (
            f"The certificate of {shown} is refused ({reason[1] if reason else text[-_CHARS:]}). Name the file of the "
            "authority that signed it (PEM) with MLFLOW_TRACKING_SERVER_CERT_PATH or REQUESTS_CA_BUNDLE, and address "
            "the server by the name in its certificate; MLFLOW_TRACKING_INSECURE_TLS=true, for a trial, checks nothing."
        )
    if isinstance(error, requests.exceptions.InvalidHeader):
        return "MLFLOW_TRACKING_TOKEN holds a line break or a space, which no token has; set it again without."
    if "TLS CA certificate bundle" in text or "TLS certificate file" in text:
        return f"{text[:_CHARS].rstrip('.')}; correct MLFLOW_TRACKING_SERVER_CERT_PATH or REQUESTS_CA_BUNDLE."
    if re.search(r"password authentication failed|no password supplied|no pg_hba.conf entry", text):
        return (
            f"The database {shown} refused the user or its password; correct them in the address, with %40 for @, "
            "%3A for : and %2F for / in a password."
        )
    status = _status(error)
    if status == HTTPStatus.UNAUTHORIZED:
        return f"{shown} did not accept who asks (HTTP 401): {_credentials(uri)}."
    if status == HTTPStatus.FORBIDDEN:
        endpoint = re.search(r"(?:endpoint |url: \S*?)(/api/\S+)", text)
        what = f"{endpoint[1].rstrip(':')}" if endpoint else text[:_CHARS]
        return (
            f"{shown} knows the user but does not allow this (HTTP 403, {what}). Ask its administrator for "
            "EDIT on the experiment, or EDIT on the registered model (docs/server.md), or name another experiment with "
            "tracking.experiment. What was computed stays in the results folder; --resume continues from there."
        )
    return None


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of MLflow or of requests reports."""
    if isinstance(error, MlflowException):
        status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
        return status
    response = getattr(error, "response", None) if isinstance(error, requests.exceptions.HTTPError) else None
    return None if response is None else int(response.status_code)


def _credentials(uri: str) -> str:
    """Return which credentials were sent, as MLflow chooses them, and what to do about them."""
    address, given = urlsplit(uri), read_mlflow_creds()
    if address.username or address.password:
        return "correct the user and password in the address, with %40 for @, %3A for : and %2F for / in a password"
    if given.username and given.password:
        return f"correct {_VARIABLES}, or the same in ~/.mlflow/credentials"
    if MLFLOW_TRACKING_TOKEN.get():  # type: ignore[no-untyped-call]
        return "MLFLOW_TRACKING_TOKEN is wrong or has expired; get a new one"
    if given.username or given.password:
        return f"of {_VARIABLES} only one is set; set both"
    return f"set {_VARIABLES}, or MLFLOW_TRACKING_TOKEN, or write them to ~/.mlflow/credentials (docs/server.md)"
