"""The tracking store: its URI, its initialisation, its experiments, and the artifacts of its runs."""

import contextlib
import json
import logging
import os
import re
import shlex
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import mlflow
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from sqlalchemy import make_url

from kmed_bench.config import TrackingConfig
from kmed_bench.core.addresses import without_password
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import creating
from kmed_bench.core.formats import Content, FileFormat
from kmed_bench.tracking.copies import adopt_copy
from kmed_bench.tracking.reach import check_reach, check_registry
from kmed_bench.tracking.refusals import is_forbidden, refused
from kmed_bench.tracking.run_notes import describe_experiment
from kmed_bench.tracking.views import shared_views
from kmed_bench.tracking.waiting import check_sqlite, store_error, wait_for_sqlite

_SQLITE = "sqlite:///"
_PAGE = 1_000


def open_store(config: TrackingConfig) -> str:
    """Return the URI of a tracking store that is initialised, reachable, and safe to share between processes.

    The order is ``config.uri``, then ``MLFLOW_TRACKING_URI``, then ``mlflow.db`` in the working folder.
    A SQLite file that does not exist is created; its artifacts go to ``mlruns`` in the same folder. MLflow's global
    tracking URI is not changed: pass the returned one to a client.

    Raises
    ------
    KmedError
        When the store can't be reached, or its database belongs to another MLflow release.
    """
    uri = resolve_uri(config.uri)
    database = sqlite_file(uri)
    wait_for_sqlite()
    if database is not None:
        check_sqlite_path(uri)
        _make_database(database)
        check_sqlite(database)
    try:
        check_reach(uri)
        with _quiet_migrations():
            MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
            if database is not None:
                adopt_copy(database)
    except Exception as error:  # drivers, HTTP and MLflow each raise their own types here
        raise store_error(error) or refused(error, uri) or KmedError(_explain(uri, error)) from error
    check_registry(MlflowClient(tracking_uri=uri))
    return uri


def resolve_uri(uri: str | None = None) -> str:
    """Return the tracking URI from the setting, the environment or the default; SQLite paths become absolute."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    # `mlflow run` quotes the folder that it is called in: a space becomes %20, as in any address.
    given = urllib.parse.unquote(given) if given.startswith(_SQLITE) else given
    named = uri or given or f"{_SQLITE}mlflow.db"
    database = sqlite_file(named)
    return named if database is None else f"{_SQLITE}{database}"


def experiment_name(config: TrackingConfig) -> str:
    """Return the experiment of benchmarks: the setting's, the environment's or the default."""
    return config.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "kmed-bench"


def sqlite_file(uri: str) -> Path | None:
    """Return the absolute path of a SQLite store's file; None for any other store."""
    if not uri.startswith(_SQLITE) or uri == _SQLITE:
        return None
    return Path(uri.removeprefix(_SQLITE)).absolute()


def check_sqlite_path(uri: str) -> None:
    """Raise KmedError for a path that SQLAlchemy would change: in a URL, ``?`` ends it and ``%41`` is ``A``."""
    meant = sqlite_file(uri)
    if meant is not None and Path(make_url(uri).database or "").absolute() != meant:
        raise KmedError(
            f"The path {meant} can't name a SQLite store: a database address takes '?' for its end and '%' with two "
            "digits for a sign; rename the folder, or choose another with tracking.uri or tune.storage."
        )


@contextlib.contextmanager
def global_store(uri: str) -> Iterator[None]:
    """Make a store MLflow's global one while the block runs; afterwards the global URI is what it was.

    Only for functions that can't be told the store: `mlflow.pyfunc.log_model`, `mlflow.register_model`, and the
    download of ``models:/…``, for which MLflow 3.17 ignores its ``tracking_uri``. All else goes through a client.
    """
    previous = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None  # type: ignore[no-untyped-call]
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(previous)  # type: ignore[arg-type]  # None unsets it


def experiment_id(client: MlflowClient, uri: str, name: str, note: str | None = None) -> str:
    """Return the id of an experiment, created if missing; a SQLite store's artifacts go beside its file.

    Parameters
    ----------
    note : str, optional
        Its description in the MLflow UI; None: that of an experiment of benchmarks.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        database = sqlite_file(uri)
        folder = re.sub(r"[^\w.-]", "_", name)
        location = None if database is None else (database.parent / "mlruns" / folder).as_uri()
        try:
            created = str(client.create_experiment(name, artifact_location=location))
            client.set_experiment_tag(created, MLFLOW_RUN_NOTE, note or describe_experiment(created))
            for key, view in ({} if note else shared_views()).items():
                client.set_experiment_tag(created, key, view)
            return created
        except MlflowException:
            experiment = client.get_experiment_by_name(name)  # another process may have been faster
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise KmedError(
            f"The experiment {name!r} was deleted in {without_password(uri)}; restore it with "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`, or set tracking.experiment or "
            "MLFLOW_EXPERIMENT_NAME to another name."
        )
    return str(experiment.experiment_id)


def search_runs(
    client: MlflowClient, query: str, *, limit: int | None = None, view: int = ViewType.ACTIVE_ONLY
) -> list[Run]:
    """Return the runs of all experiments that match a query, the latest first; by default those not deleted."""
    holders = ViewType.ACTIVE_ONLY if view == ViewType.ACTIVE_ONLY else ViewType.ALL
    experiments = [experiment.experiment_id for experiment in client.search_experiments(holders)]
    if not experiments:
        return []
    runs: list[Run] = []
    token: str | None = None
    while limit is None or len(runs) < limit:
        page = client.search_runs(
            experiments,
            query,
            run_view_type=view,
            max_results=min(_PAGE, limit or _PAGE),
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            break
    return runs


def artifact_folder(run: Run) -> Path | None:
    """Return the local folder of a run's artifacts; None if a server or a bucket has them."""
    return local_folder(run.info.artifact_uri)


def local_folder(uri: str) -> Path | None:
    """Return the local folder of an artifact location; None if it is on a server or in a bucket."""
    location = urllib.parse.urlparse(uri)
    return Path(url2pathname(location.path)) if location.scheme in ("", "file") else None


def read_json_artifact(client: MlflowClient, run: Run, name: str) -> dict[str, Any]:
    """Return a run's JSON artifact; {} if the run has none of this name.

    Raises
    ------
    KmedError
        When it exists but can't be read.
    """
    try:
        text = read_artifact_text(client, run, name)
        value = {} if text is None else json.loads(text)
    except (MlflowException, OSError, RecursionError, ValueError) as error:
        raise refused(error, str(client.tracking_uri)) or KmedError(
            f"{name} of run {run.info.run_id} can't be read ({error}); check the artifact store."
        ) from error
    if not isinstance(value, dict):
        raise KmedError(f"{name} of run {run.info.run_id} holds a {type(value).__name__}, not an object; log it again.")
    return value


_NO_SUCH_RUN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the second of an id in another form


def find_run(client: MlflowClient, run_id: str) -> Run | None:
    """Return a run, or None where the store has none of this id or does not show it to this user.

    A server with authentication says HTTP 403 for both.

    Raises
    ------
    KmedError
        When the credentials are wrong or the store is away.
    """
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if is_forbidden(error) or error.error_code in _NO_SUCH_RUN:
            return None
        uri = str(client.tracking_uri)
        raise store_error(error) or refused(error, uri) or KmedError(_explain(uri, error)) from error


def read_artifact(client: MlflowClient, run: Run, name: str, format: FileFormat[Content]) -> Content | None:
    """Return a run's JSON artifact of a known format; None if the run has none of this name.

    Raises
    ------
    KmedError
        When it can't be read, or is of a format or version that this release does not read.
    """
    content = read_json_artifact(client, run, name)
    return format.check(content, f"{name} of run {run.info.run_id}") if content else None


def read_artifact_text(client: MlflowClient, run: Run, name: str) -> str | None:
    """Return a run's artifact as text, by its path among the artifacts; None if the run has none of this name."""
    folder = artifact_folder(run)
    if folder is not None:  # faster: MLflow's client would look up the run twice per file
        path = folder / name
        return path.read_text(encoding="utf-8") if path.exists() else None
    above = name.rpartition("/")[0] or None
    if name not in {artifact.path for artifact in client.list_artifacts(run.info.run_id, above)}:
        return None
    with tempfile.TemporaryDirectory() as target:
        return Path(client.download_artifacts(run.info.run_id, name, target)).read_text(encoding="utf-8")


def _make_database(path: Path) -> None:
    """Create a complete database in a temporary file and link it into place: no process sees half a schema."""
    if path.exists() and path.stat().st_size > 0:
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # slow, and not needed for servers

    try:
        with creating(path) as fresh, _quiet_migrations():
            store = SqlAlchemyStore(f"{_SQLITE}{fresh}", (path.parent / "mlruns").as_uri())  # type: ignore[no-untyped-call]
            store.engine.dispose()
            if path.exists() and path.stat().st_size == 0:
                path.unlink()
    except OSError as error:
        raise KmedError(
            f"The tracking database {path} can't be created ({error}); choose a writable folder with "
            "tracking.uri=sqlite:////absolute/path/mlflow.db, or set MLFLOW_TRACKING_URI."
        ) from error


def _explain(uri: str, error: Exception) -> str:
    shown = without_password(uri)
    text = without_password(" ".join(str(error).replace(uri, shown).split()))[:400]
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return (
            f"The tracking database {shown} was made by another MLflow release than the {mlflow.__version__} that "
            f"is installed; back it up and run `mlflow db upgrade '{shown}'`, or choose another with tracking.uri."
        )
    if isinstance(error, ModuleNotFoundError):
        return (
            f"The tracking store {shown} needs the database driver {error.name}, which is not installed; run "
            f"`pip install {error.name}` (for PostgreSQL: `pip install 'psycopg[binary]'`), or correct tracking.uri."
        )
    return (
        f"The tracking store {shown} can't be used ({type(error).__name__}: {text}); start it, correct tracking.uri "
        "or MLFLOW_TRACKING_URI, or leave both out for an SQLite file in the working folder."
    )


@contextlib.contextmanager
def _quiet_migrations() -> Iterator[None]:
    """Hide log lines about tables and migrations while the block runs; warnings still pass."""
    loggers = [logging.getLogger(name) for name in ("mlflow.store.db.utils", "alembic", "alembic.runtime.migration")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def ui_command(uri: str) -> str:
    """Return the command, or address, that opens the MLflow UI on this store; a masked password must be filled in."""
    uri = without_password(uri)
    if uri.startswith(("http://", "https://")):
        return uri.replace("***@", "")  # the browser asks
    program = Path(sys.executable).with_name("mlflow")
    name = shlex.quote(str(program)) if program.exists() else "mlflow"
    place = shlex.quote(uri)
    return f"MLFLOW_DISABLE_TELEMETRY=true {name} ui --host 127.0.0.1 --port 5000 --backend-store-uri {place}"
