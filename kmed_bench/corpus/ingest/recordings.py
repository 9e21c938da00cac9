"""Which utterances share a recording, that is equal samples, whatever their names and headers."""

import hashlib

import pandas as pd

from kmed_bench.core.errors import KmedError
from kmed_bench.corpus.archives.media import open_media
from kmed_bench.corpus.archives.reader import AudioReader
from kmed_bench.corpus.archives.wav import is_wav, read_samples

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
    total = hashlib.blake2b(digest_size=16)
    try:
        content = reader.read(path)
        if is_wav(content):
            samples, rate_hz = read_samples(content)
            total.update(samples.tobytes())
        else:
            with open_media(content) as media:
                rate_hz = media.rate_hz
                for block in media.blocks:
                    total.update(block.tobytes())
    except (OSError, ValueError, KmedError):
        return stem
    return f"{rate_hz}\t{total.hexdigest()}"
