"""The untouched model's results, which all seeds of a size share: kept in the size's folder once they are computed."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import PRIVATE_FOLDER, write_json
from kmed_bench.core.locks import locked
from kmed_bench.core.predictions import Prediction, read_predictions, write_predictions
from kmed_bench.core.run_contracts import UNTOUCHED

UNTOUCHED_FILE = "untouched.json"
UNTOUCHED_FOLDER = "untouched"
"""In the folder of a size; private, since transcripts are in it."""
_TEST, _LEFT_OUT = "predictions_untouched.jsonl", "predictions_left_out_untouched.jsonl"
_LOCK = ".untouched.lock"
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Untouched:
    """The model before training.

    Attributes
    ----------
    valid : dict
        Metrics of the valid part under their names in the tracking store.
    test, left_out : list of Prediction
        The decoded test part (of a learning curve, the part that it is drawn on), and the sample of what the split
        left out: empty unless ``eval.leak_clips`` is set.
    """

    valid: dict[str, float]
    test: list[Prediction]
    left_out: list[Prediction]


def computed_once(folder: Path, identity: str, compute: Callable[[], Untouched], *, what: str) -> Untouched:
    """Return the results that a folder holds under an identity; where it holds none, compute and keep them.

    Of several processes that need them at the same time, one computes and the others wait for it.

    Parameters
    ----------
    identity : str
        Digest of everything that decides them.
    what : str
        What is waited for, such as ``the untouched base``.
    """
    folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    with locked(folder / _LOCK, what):
        kept = _read(folder, identity)
        if kept is not None:
            log.info("The untouched model was scored before.")
            return kept
        (folder / UNTOUCHED_FILE).unlink(missing_ok=True)  # of another identity: what it names is about to change
        found = compute()
        write_predictions(folder / _TEST, found.test)
        if found.left_out:
            write_predictions(folder / _LEFT_OUT, found.left_out)
        content = {**UNTOUCHED.head, "identity": identity, "valid": found.valid, "left_out": len(found.left_out)}
        # Last: where this file is, the others are whole.
        write_json(folder / UNTOUCHED_FILE, content)
        return found


def _read(folder: Path, identity: str) -> Untouched | None:
    """Return what a folder holds under an identity; None where something is missing, damaged or of another identity."""
    path = folder / UNTOUCHED_FILE
    if not path.is_file():
        return None
    try:
        kept = UNTOUCHED.read(path)
        if kept["identity"] != identity:
            return None
        left_out = read_predictions(folder / _LEFT_OUT) if kept["left_out"] else []
        return Untouched(kept["valid"], read_predictions(folder / _TEST), left_out)
    except KmedError as error:
        log.warning("The untouched model is scored again: %s", error)
        return None
