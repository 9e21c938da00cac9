"""The recordings of a command's clips, read where the manifest says they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kmed_bench.core.errors import KmedError

if TYPE_CHECKING:
    import numpy as np

    from kmed_bench.corpus.splitting.split import Split
    from kmed_bench.report.recordings import ReadClip


@contextmanager
def open_recordings(split: "Split") -> "Iterator[ReadClip]":
    """Yield what returns an utterance's samples as the model hears them: mono, 16 kHz, float32, shape (n_samples,).

    It raises KmedError for an utterance that is in no part of the split, and for audio that can't be read.
    """
    from kmed_bench.corpus.archives.reader import AudioReader

    places = {
        name: audio
        for part in split.parts.values()
        for name, audio in zip(part["utterance_id"], part["audio"], strict=True)
    }
    with AudioReader() as reader:

        def read(utterance_id: str) -> "np.ndarray":
            from kmed_bench.asr.features.audio import (
                decode_audio,
            )  # torch: seconds to import, so not before it is needed

            if utterance_id not in places:
                raise KmedError(f"The manifest has no utterance {utterance_id!r:.80}; name the one that has: --audio.")
            return decode_audio(reader.read(places[utterance_id]), utterance_id)

        yield read
