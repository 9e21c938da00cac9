"""A single check that a tracking server or database answers: MLflow would retry for minutes."""

import logging
import os
import warnings
from http import HTTPStatus

import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy.pool import NullPool

from kmed_bench.core.addresses import without_password
from kmed_bench.core.errors import KmedError
from kmed_bench.tracking.refusals import refused

_ANSWER_WITHIN_S = 10
_REGISTRY = "MLFLOW_REGISTRY_URI"
DATABASES = ("postgresql", "mysql", "mssql")
NO_ANSWER = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
"""What a proxy says whose server is away, and MLflow's server when its database is; a later request may succeed."""
_unchecked: set[str] = set()
log = logging.getLogger(__name__)


def check_reach(uri: str) -> None:
    """Raise an error if a server or a database does not answer, or refuses the certificate or the password.

    A server is asked with the credentials and certificates that MLflow takes from the environment; files are not asked.

    Raises
    ------
    OSError, ValueError, mlflow.exceptions.MlflowException, sqlalchemy.exc.SQLAlchemyError
        When there is no answer, or the address is not valid.
    """
    if uri.startswith(("http://", "https://")):
        _ask_server(uri)
    elif uri.startswith(DATABASES):
        options = {"connect_timeout": _ANSWER_WITHIN_S} if uri.startswith("postgresql") else {}
        engine = sqlalchemy.create_engine(uri, poolclass=NullPool, connect_args=options)
        engine.connect().close()


def check_registry(client: MlflowClient) -> None:
    """Raise KmedError if MLFLOW_REGISTRY_URI names another server or database for models, which can't be used."""
    uri = os.environ.get(_REGISTRY, "")
    if uri in ("", client.tracking_uri):
        return
    try:
        check_reach(uri)
        client.search_registered_models(max_results=1)
    except Exception as error:  # drivers, HTTP and MLflow each raise their own types here
        shown, text = without_password(uri), " ".join(without_password(str(error)).split())[:400]
        raise refused(error, uri) or KmedError(
            f"The model registry {shown} can't be used ({type(error).__name__}: {text}); start it, or correct or "
            f"unset {_REGISTRY}."
        ) from error


def _ask_server(uri: str) -> None:
    credentials = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
    if credentials.ignore_tls_verification and uri.startswith("https://") and uri not in _unchecked:
        _unchecked.add(uri)
        warnings.filterwarnings("ignore", message="Unverified HTTPS request")  # one for each request otherwise
        log.warning("MLFLOW_TRACKING_INSECURE_TLS is true: nobody checks that the server is the one that is meant.")
    try:
        response = http_request(  # type: ignore[no-untyped-call]
            credentials,
            "/api/2.0/mlflow/experiments/search",  # needs the server's database, which /health does not
            "POST",
            json={"max_results": 1},
            max_retries=0,
            timeout=_ANSWER_WITHIN_S,
            raise_on_status=False,
        )
    except MlflowException as error:
        raise (error.__cause__ or error.__context__ or error) from None
    if response.status_code in NO_ANSWER:  # any other is an answer; whether it is allowed is for MLflow to find out
        response.raise_for_status()
