"""Which utterances share a recording, that is equal samples, whatever their names and headers."""

import hashlib

import pandas as pd

from kmed_bench.core.errors import KmedError
from kmed_bench.corpus.archives.reader import AudioReader
from kmed_bench.corpus.archives.wav import WavError, read_samples

_ALIKE = ["audio_first", "audio_duration_s", "audio_rate_hz", "audio_channels"]


def identify_recordings(rows: pd.DataFrame) -> "pd.Series[str]":
    """Return a digest of each usable row's recording, equal for equal recordings; empty for rows with a verdict.

    It covers the first samples, the length, the rate and the number of channels, which were read with the header.
    Recordings that agree in all of these are read completely; those that differ get the digest of all their samples.

    Parameters
    ----------
    rows : pandas.DataFrame
        Labels with their verdict, ``stem`` and the columns of ``AUDIO_SCHEMA`` under the prefix ``audio_``.
    """
    usable = rows.loc[rows["reason"] == "", ["stem", "audio_path", *_ALIKE]]
    digests = pd.Series("", rows.index, "str")
    keys = usable[_ALIKE].astype("str").agg("\t".join, axis=1) if len(usable) else usable["stem"]
    digests[usable.index] = keys.map(_digest)
    alike = usable[keys.duplicated(keep=False)].sort_values("audio_path")
    if alike.empty:
        return digests
    with AudioReader() as reader:
        samples = pd.Series(
            [_read(reader, path, stem) for path, stem in zip(alike["audio_path"], alike["stem"], strict=True)],
            alike.index,
        )
    differ = samples.groupby(keys[alike.index]).transform("nunique") > 1
    for row in alike.index[differ]:
        digests[row] = _digest(samples[row])
    return digests


def _digest(value: str) -> str:
    return hashlib.blake2b(value.encode(), digest_size=8).hexdigest()


def _read(reader: AudioReader, path: str, stem: str) -> str:
    """Return a digest of all samples, or where they can't be read the utterance's name, which is unique."""
    try:
        samples, rate_hz = read_samples(reader.read(path))
    except (OSError, ValueError, WavError, KmedError):
        return stem
    return f"{rate_hz}\t{hashlib.blake2b(samples.tobytes(), digest_size=16).hexdigest()}"
