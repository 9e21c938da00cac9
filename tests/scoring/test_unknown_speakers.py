"""Recordings whose speakers are not known: no interval, no small p-value, no disjoint split, and the reason why."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from kmed_bench.config import SplitConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import MANIFEST_COLUMNS, SELECTION, UNKNOWN
from kmed_bench.corpus.splitting.cells import CELL
from kmed_bench.corpus.splitting.split import split_manifest
from kmed_bench.scoring import ScoringOptions, compare_predictions, score_predictions
from kmed_bench.scoring.intervals import difference_p_value, rate_interval
from kmed_bench.scoring.power import describe_power, plan_part
from kmed_bench.scoring.spread import clips_of, count_speakers

N = 40
OPTIONS = ScoringOptions(bootstrap_draws=100, min_group_clips=1, min_group_speakers=1)


def rows(speaker: str | None) -> pd.DataFrame:
    """Utterances of eight speakers; of one value in their place, if one is given."""
    made = []
    for n in range(N):
        row: dict[str, Any] = dict.fromkeys(MANIFEST_COLUMNS, "N/A")
        row |= {
            "utterance_id": f"u{n:02}",
            "sentence_id": f"t{n}",
            "text": f"열이 나요 {chr(0xAC00 + n)}",
            "rate_hz": 16_000,
        }
        row |= {"speaker_id": f"s{n % 8}" if speaker is None else speaker, "gender": ("Female", "Male")[n % 2]}
        made.append({**row, "duration_s": 1.5})
    return pd.DataFrame(made)


def heard(table: pd.DataFrame, every: int) -> list[Prediction]:
    texts = [text if n % every else text[:-2] for n, text in enumerate(table["text"])]
    return [Prediction.from_row(row, text, 0.0) for row, text in zip(table.to_dict("records"), texts, strict=True)]


def test_the_rates_stay_and_the_intervals_go():
    known, unknown = (score_predictions(heard(rows(speaker), 3), OPTIONS) for speaker in (None, "N/A"))
    assert unknown["overall"]["cer"] == known["overall"]["cer"] > 0
    assert known["overall"]["cer_low"] is not None
    assert unknown["overall"]["cer_low"] is unknown["overall"]["cer_high"] is None
    assert unknown["overall"]["no_interval"]["cer"].startswith(f"the speakers of {N} clips are not known")
    assert (known["overall"]["n_speakers"], unknown["overall"]["n_speakers"]) == (8, 0)
    assert unknown["overall"]["below_minimum"]
    assert unknown["speakers"] == {"n_speakers": 0, "cer_quantiles": {}}
    assert {(gap["p_value"], gap["below_minimum"]) for gap in unknown["gaps"]} == {(None, True)}


@pytest.mark.parametrize("speaker", UNKNOWN)
def test_nothing_is_significant_between_two_systems(speaker):
    table = rows(speaker)
    compared = compare_predictions(heard(table, 1), heard(table, 40), OPTIONS)
    assert compared["delta"] < 0
    assert (compared["p_value"], compared["n_speakers"], compared["delta_low"]) == (1.0, 0, None)
    assert "are not known" in compared["no_interval"]
    assert compare_predictions(heard(rows(None), 1), heard(rows(None), 40), OPTIONS)["p_value"] < 0.05


def test_some_unknown_speakers_are_enough():
    speakers = np.array(["s1", "s2", "s3", "N/A"] * 5, dtype=object)
    clips = clips_of(speakers, np.arange(20) % 7, np.full(20, 10))
    assert (clips.n_unknown, clips.n_known_speakers, count_speakers(speakers)) == (5, 3, 3)
    assert "speakers of 5 clips are not known" in rate_interval(clips).reason
    assert difference_p_value(clips) == 1.0
    codes = np.where(speakers == "N/A", -1, 1)
    assert clips_of(codes, np.arange(20) % 7, np.full(20, 10)).n_unknown == 5
    assert clips_of(speakers[:3], np.arange(3), np.full(3, 10)).n_unknown == 0


def test_no_split_keeps_unknown_speakers_apart():
    config = SplitConfig(train=20, valid=8, test=8, by=("gender",))
    table = rows(None)
    table.loc[0, "speaker_id"] = "N/A"
    with pytest.raises(KmedError, match=r"The speakers of 1 of 40 utterances are not known.*--split.disjoint sentence"):
        split_manifest(table, config)
    split = split_manifest(rows("N/A"), SplitConfig(train=20, valid=8, test=8, by=("gender",), disjoint=("sentence",)))
    assert split.report["label"] == "leaking unknown speakers"
    assert split.report["leakage"]["speakers"] == 0
    assert split.report["leakage"]["speakers_unknown"] == 36
    assert split.report["parts"]["train"]["speakers"] == 0
    assert split.left_out is not None
    assert set(split.left_out[CELL]) == {SELECTION}
    assert "speakers_unknown" not in split_manifest(rows(None), config).report["leakage"]


def test_no_difference_can_be_planned():
    planned = plan_part(rows("N/A"), "test", "pronunciation")
    assert (planned["n_speakers"], planned["smallest_difference"]) == (0, None)
    assert "not all known" in describe_power(None, 0, N, "source")
