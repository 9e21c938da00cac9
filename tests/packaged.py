"""Predictions of two systems on one part, as tests of packages and baselines need them."""

from typing import Any

import numpy as np

from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring import ScoringOptions

OPTIONS = ScoringOptions(bootstrap_draws=200)
SENTENCES = ("머리가 (3)/(삼) 일째 아파요.", "약을 먹었는데 토했어요", "네", "…", "혈압이 높대요")
REPORT = {"sha256": "ab" * 32, "counts": {"train": 9, "valid": 9, "test": 60}, "discarded": 2, "source": "/home/me"}


def system(wrong: float, seed: int) -> list[Prediction]:
    noise = np.random.default_rng(seed)
    made = []
    for number in range(60):
        reference = SENTENCES[number % 5]
        heard = reference.replace("(3)/(삼)", "삼")
        made.append(
            Prediction(
                utterance_id=f"u{number:02}",
                speaker_id=f"0{number % 9}",
                sentence_id=f"sentence{number % 5}",
                reference=reference,
                hypothesis="".join("헉" if noise.random() < wrong else sign for sign in heard),
                duration_s=1.1 + number / 7,
                decode_s=0.1 + number / 70,
                gender="Female",
                age="N/A",
                dialect="경상",
                region="NA",
                role="patient",
            )
        )
    return made


SYSTEMS = {"base": system(0.2, 1), "small-tuned": system(0.05, 2)}


def changed(predictions: list[Prediction], **fields: Any) -> list[Prediction]:
    return [Prediction(**{**vars(predictions[0]), **fields}), *predictions[1:]]
