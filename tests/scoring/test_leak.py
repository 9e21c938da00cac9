"""CER by cell, gains and the leak, against figures that are computed by hand."""

import dataclasses
import json

import pytest

from kmed_bench.core.errors import KmedError
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.run_contracts import Leak, LeakDifference
from kmed_bench.core.schema import CELLS
from kmed_bench.scoring.leak import score_leak
from kmed_bench.scoring.suppression import without_small_cells
from kmed_bench.tracking.metric_names import leak_metrics

LEFT_OUT = {"seen_seen": 30, "seen_unseen": 20, "unseen_seen": 10, "unseen_unseen": 5, "selection": 7}
REFERENCE = "가나다라마바사아자차"


def clip(cell: str, number: int, wrong: int) -> Prediction:
    """A clip of ten characters, ``wrong`` of them misheard; eight speakers with two sentences in each cell."""
    return Prediction(
        utterance_id=f"{cell}{number}",
        speaker_id=f"{cell}-{number % 8}",
        sentence_id=f"{cell}-{number // 8}",
        reference=REFERENCE,
        hypothesis="허" * wrong + REFERENCE[wrong:],
        duration_s=2.0,
        decode_s=0.1,
        gender="Female",
        age="20~29",
        dialect="경상",
        region="",
        role="patient",
    )


def system(wrong: dict[str, list[int]]) -> list[Prediction]:
    return [clip(cell, number, n) for cell, counts in wrong.items() for number, n in enumerate(counts)]


# 16 clips of ten characters a cell.
UNTOUCHED = system({cell: [5, 4, 3, 4] * 4 for cell in CELLS})  # 64 of 160 wrong: 0.40
TUNED = system(
    {
        "seen_seen": [1, 0, 1, 0] * 4,  # 8: 0.05, a gain of 0.35
        "seen_unseen": [3, 2, 2, 1] * 4,  # 32: 0.20, a gain of 0.20
        "unseen_seen": [2, 2, 1, 1] * 4,  # 24: 0.15, a gain of 0.25
        "unseen_unseen": [4, 4, 2, 2] * 4,  # 48: 0.30, a gain of 0.10
    }
)
CELL_OF = {prediction.utterance_id: prediction.speaker_id.partition("-")[0] for prediction in TUNED}


def score(tuned: list[Prediction], untouched: list[Prediction] | None) -> Leak:
    return score_leak(CELL_OF, tuned, untouched, left_out=LEFT_OUT, limit=16, seed=3, split_sha256="ab" * 32)


def test_cells_gains_and_leak_equal_the_hand_computation() -> None:
    leak = score(TUNED, UNTOUCHED)
    json.dumps(leak, allow_nan=False)
    cells = leak["cells"]
    assert {cell: row["tuned"]["cer"] for cell, row in cells.items()} == pytest.approx(
        {"seen_seen": 0.05, "seen_unseen": 0.20, "unseen_seen": 0.15, "unseen_unseen": 0.30}
    )
    assert all(row["untouched"] is not None and row["untouched"]["cer"] == 0.4 for row in cells.values())
    assert [cells[cell]["gain"] for cell in CELLS] == pytest.approx([0.35, 0.20, 0.25, 0.10])
    assert {name: row["gain"] for name, row in leak["differences"].items()} == pytest.approx(
        {"leak": 0.25, "speakers": 0.10, "sentences": 0.15}
    )
    assert [cells[cell]["n_available"] for cell in CELLS] == [30, 20, 10, 16]  # the test part is the last one
    assert [cells[cell]["n_decoded"] for cell in CELLS] == [16] * 4
    assert all(row["tuned"]["n_speakers"] == 8 for row in cells.values())
    assert leak["left_out"] == LEFT_OUT
    assert leak["sample"] == {"limit": 16, "seed": 3}


def test_cells_of_few_speakers_leave_neither_figures_nor_differences() -> None:
    few = [p for p in TUNED if not p.speaker_id.startswith("seen_seen") or p.speaker_id == "seen_seen-0"]
    before = [p for p in UNTOUCHED if p.utterance_id in {one.utterance_id for one in few}]
    leak = score(few, before)
    assert {name for name in leak_metrics(leak) if "seen_seen" in name.split("/")}
    shown = without_small_cells(leak, 5)
    assert list(shown["cells"]) == [cell for cell in CELLS if cell != "seen_seen"]
    assert set(shown["differences"]) == {"speakers", "sentences"}
    metrics = leak_metrics(shown)
    assert not any("seen_seen" in name.split("/") or "/leak" in name for name in metrics)
    assert "leak/cer/seen_unseen" in metrics
    assert without_small_cells(leak, 1) == leak


def bounds(row: LeakDifference) -> tuple[float, float, float]:
    assert row["gain"] is not None
    assert row["gain_low"] is not None
    assert row["gain_high"] is not None
    return row["gain_low"], row["gain"], row["gain_high"]


def check_combined(leak: Leak) -> None:
    """Assert that the leak's bounds combine the distances of the two gains' bounds."""
    low, gain, high = bounds(leak["differences"]["leak"])
    (low_a, a, high_a), (low_b, b, high_b) = (bounds(leak["cells"][cell]) for cell in ("seen_seen", "unseen_unseen"))
    assert gain == pytest.approx(a - b)
    assert gain - low == pytest.approx(((a - low_a) ** 2 + (high_b - b) ** 2) ** 0.5)
    assert high - gain == pytest.approx(((high_a - a) ** 2 + (b - low_b) ** 2) ** 0.5)


def test_the_leaks_interval_combines_those_of_the_two_gains() -> None:
    check_combined(score(TUNED, UNTOUCHED))


def test_no_leak_where_all_cells_gain_alike() -> None:
    alike = score(system({cell: [3, 1, 2, 2] * 4 for cell in CELLS}), UNTOUCHED)
    assert [row["gain"] for row in alike["differences"].values()] == pytest.approx([0, 0, 0])


def test_one_model_alone_has_no_gain() -> None:
    leak = score(TUNED, None)
    assert leak["differences"] == {}
    assert {row["untouched"] for row in leak["cells"].values()} == {None} == {r["gain"] for r in leak["cells"].values()}
    assert leak_metrics(leak) == pytest.approx(
        {f"leak/cer/{cell}": value for cell, value in zip(CELLS, (0.05, 0.2, 0.15, 0.3), strict=True)}
    )


def test_an_empty_cell_leaves_its_differences_undefined() -> None:
    tuned, untouched = ([p for p in side if not p.utterance_id.startswith("seen_seen")] for side in (TUNED, UNTOUCHED))
    leak = score(tuned, untouched)
    assert leak["cells"]["seen_seen"]["tuned"] == {
        "cer": None, "cer_low": None, "cer_high": None, "n_clips": 0, "n_speakers": 0,
        "no_interval": "no clip counts",
    }  # fmt: skip
    assert leak["differences"]["leak"]["gain"] is None
    assert leak["differences"]["leak"]["no_interval"] == "no clip counts"
    assert leak["differences"]["speakers"]["gain"] == pytest.approx(0.1)


def test_invented_text_moves_the_leak_and_widens_its_interval() -> None:
    looping = [
        dataclasses.replace(p, hypothesis=REFERENCE + "허" * 12) if p.utterance_id == "unseen_unseen0" else p
        for p in TUNED
    ]
    found, before = score(looping, UNTOUCHED), score(TUNED, UNTOUCHED)
    check_combined(found)
    (low, gain, high), (low_before, gain_before, high_before) = (
        bounds(leak["differences"]["leak"]) for leak in (found, before)
    )
    assert gain - gain_before == pytest.approx((12 - 4) / 160)  # 12 insertions in place of 4 errors
    assert high - low > high_before - low_before


def test_a_gain_without_an_interval_gives_the_leak_its_reason() -> None:
    alike = system({cell: [2] * 16 for cell in CELLS})
    found = score(alike, system({cell: [4] * 16 for cell in CELLS}))
    leak, gain = found["differences"]["leak"], found["cells"]["seen_seen"]
    assert (leak["gain"], leak["gain_low"], leak["gain_high"]) == (0, None, None)
    assert (
        leak["no_interval"]
        == gain["no_interval"]
        == ("all speakers have the same rate, so the clips do not show how much speakers differ")
    )


def test_metrics_have_ascii_names_and_the_differences_bounds() -> None:
    leak = score(TUNED, UNTOUCHED)
    metrics = leak_metrics(leak)
    assert metrics["leak/untouched_cer/seen_seen"] == 0.4
    assert metrics["leak/gain/unseen_seen"] == pytest.approx(0.25)
    assert metrics["leak/difference/leak"] == pytest.approx(0.25)
    assert metrics["leak/difference/leak_low"] == leak["differences"]["leak"]["gain_low"]
    assert all(name.isascii() for name in metrics)


def test_predictions_of_neither_part_are_refused() -> None:
    with pytest.raises(KmedError, match="1 predictions are neither of the test part nor of the left-out sample"):
        score([*TUNED, clip("other", 0, 0)], None)
    with pytest.raises(KmedError, match="utterances are missing"):
        score(TUNED, UNTOUCHED[1:])
