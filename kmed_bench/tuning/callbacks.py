"""Functions of the user's own that a study calls after each trial."""

import importlib
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from kmed_bench.core.errors import KmedError, brief

Callback = Callable[[optuna.Study, FrozenTrial], None]
log = logging.getLogger(__name__)


def load_callbacks(names: Iterable[str]) -> list[Callback]:
    """Return the functions named as ``module:function``; modules of the working folder are found too.

    Raises
    ------
    KmedError
        When a name has another form, a module can't be imported, or it has no such function.
    """
    return [_load(name) for name in names]


def _load(name: str) -> Callback:
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise KmedError(f"tune.callbacks has {name!r}; name each function as module:function, such as hooks:notify.")
    # The installed command, unlike `python -m`, doesn't look for modules in the working folder.
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function, None)
    except Exception as error:  # whatever the module's own code raises
        raise KmedError(
            f"tune.callbacks names {name!r}, and importing {module} failed ({type(error).__name__}: {brief(error)}); "
            f"run the command in the folder of {module.partition('.')[0]}, or set PYTHONPATH to it."
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise KmedError(f"tune.callbacks names {name!r}, but {module} has no function {function}; check the name.")
    loaded: Callback = found
    return loaded


def guard(callback: Callback, on_error: Callable[[str], None]) -> Callback:
    """Return a callback whose errors are logged and reported instead of ending the study.

    Parameters
    ----------
    on_error : callable
        Gets which callback failed, after which trial and with which type of error.
    """
    name = f"{getattr(callback, '__module__', '')}:{getattr(callback, '__qualname__', repr(callback))}"

    def call(study: optuna.Study, trial: FrozenTrial) -> None:
        try:
            callback(study, trial)
        except Exception as error:
            log.error("Callback %s failed after trial %d: %r", name, trial.number, error)
            on_error(f"{name} after trial {trial.number}: {type(error).__name__}")

    return call
