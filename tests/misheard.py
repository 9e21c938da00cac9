"""A few clips with typical errors, for tests of the error analysis and of its page."""

from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring import ScoringOptions

OPTIONS = ScoringOptions(bootstrap_draws=100)
LINES = [
    # speaker, reference, hypothesis
    ("s1", "(3)/(삼) 일째 배가 아파요.", "삼일째 배가 아바요"),
    ("s1", "감기약 주세요.", "강기약 주세요"),
    ("s2", "혈압이 높아요", "혈압 노파요"),
    ("s2", "네", "네"),
    ("s3", "어지러워요", "시청해 주셔서 감사합니다"),
    ("s3", ".", "무엇이든"),
]


def predictions(lines: list[tuple[str, str, str]]) -> list[Prediction]:
    return [
        Prediction(
            utterance_id=f"u{number}",
            speaker_id=speaker,
            sentence_id="",
            reference=reference,
            hypothesis=hypothesis,
            duration_s=3.0,
            decode_s=0.5,
            gender="Male",
            age="over70",
            dialect="경상",
            region="",
            role="patient",
        )
        for number, (speaker, reference, hypothesis) in enumerate(lines)
    ]
