"""One verdict per label: usable, or one reject reason, in a fixed order of checks.

The label itself comes first, then its quality status, then whether its utterance is there twice,
then its audio. `reason` and `detail` hold the verdict; an empty reason means usable so far.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kmed_bench.config import DataConfig
from kmed_bench.core.schema import RejectReason

Detail = str | Callable[[pd.DataFrame], pd.Series]


def _reject(rows: pd.DataFrame, where: pd.Series, reason: RejectReason, detail: Detail) -> None:
    """Give a verdict to those rows of `where` that have none yet; `detail` is made for them alone."""
    where = where & (rows["reason"] == "")
    rows.loc[where, "detail"] = detail if isinstance(detail, str) else detail(rows[where]).astype("str")
    rows.loc[where, "reason"] = reason


def judge_labels(rows: pd.DataFrame, config: DataConfig) -> None:
    """Reject excluded quality and utterances that are there twice; of good labels the first stays.

    Parameters
    ----------
    rows : DataFrame
        Labels as read, sorted by `stem`, then by what decides between two of one name. Changed in
        place.
    """
    accepted = rows["quality"].isin(config.accepted_quality)
    _reject(rows, ~accepted, "quality_excluded", lambda found: "QualityStatus is " + found["quality"])
    good = rows[rows["reason"] == ""]
    first = good.drop_duplicates("stem").set_index("stem")["path"]
    again = good["stem"].duplicated().reindex(rows.index, fill_value=False)
    _reject(rows, again, "duplicate_utterance", lambda found: "kept: " + found["stem"].map(first))


def pair_audio(rows: pd.DataFrame, audio: pa.Table, place: Callable[[pd.DataFrame], pd.DataFrame]) -> pa.Table:
    """Return the audio entry of each label that has no verdict yet, where there is one.

    Of several files with a label's name, one of the label's own release is taken, then the first
    by location.

    Parameters
    ----------
    rows : DataFrame
        Labels with `stem`, `release` and `reason`.
    audio : pyarrow.Table
        Rows of ``ENTRY_SCHEMA``.
    place : callable
        Adds `path` and `release` to a frame of entries.
    """
    wanted = rows.loc[rows["reason"] == "", ["stem", "release"]].rename(columns={"release": "wanted"})
    found = audio.filter(pc.is_in(audio["stem"], pa.array(wanted["stem"], pa.string())))
    stems = found["stem"].to_pandas()
    if not stems.is_unique:  # else nothing is to be chosen
        frame = found.select(["container", "name", "stem", "start"]).to_pandas()
        frame = place(frame.assign(row=np.arange(len(frame)))).merge(wanted, on="stem")
        frame["elsewhere"] = frame["release"] != frame["wanted"]
        order = ["stem", "elsewhere", "release", "path", "start"]
        frame = frame.sort_values(order, ascending=[True, True, True, True, False])
        chosen = frame.drop_duplicates("stem")["row"].sort_values()
        found = found.take(pa.array(chosen))
    return found


def judge_audio(rows: pd.DataFrame, config: DataConfig) -> None:
    """Reject labels whose audio is missing, unreadable, cut short, too short or too long.

    Parameters
    ----------
    rows : DataFrame
        Labels with their audio's columns of ``AUDIO_SCHEMA`` under the prefix ``audio_``, missing
        values where there is no audio. Changed in place.
    """
    fault, duration = rows["audio_fault"], rows["audio_duration_s"]
    stated = rows["stated_s"].where(np.isfinite(rows["stated_s"]))
    short = pd.Series(np.fmax(rows["audio_missing_s"], stated - duration), rows.index)
    low, high = config.min_duration_s, config.max_duration_s
    _reject(rows, fault.isna(), "audio_missing", "no audio of this name in any source")
    _reject(rows, fault != "", "audio_unreadable", lambda found: found["audio_fault"])
    cut = short > config.truncation_tolerance_s
    _reject(
        rows, cut, "audio_truncated", lambda found: _lasts(found) + ", " + _seconds(short[found.index]) + " too few"
    )
    _reject(rows, duration < low, "audio_too_short", lambda found: _lasts(found) + f"; the least is {low} s")
    _reject(rows, duration > high, "audio_too_long", lambda found: _lasts(found) + f"; the most is {high} s")


def _lasts(found: pd.DataFrame) -> pd.Series:
    return "lasts " + _seconds(found["audio_duration_s"])


def _seconds(values: pd.Series) -> pd.Series:
    return values.map("{:.3f} s".format).astype("str")
