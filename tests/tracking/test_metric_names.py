"""Names of metrics: ASCII, the same in every run, and another for every group."""

import re
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from kmed_bench.core.contracts import Scores
from kmed_bench.tracking.metric_names import ascii_value
from kmed_bench.tracking.metric_names import score_metrics as group_metrics

NAMED = {
    "gender": ("남성", "여성", "Female", "namseong"),
    "dialect": ("경기/서울", "제주", "북한", "기타(외국)", "경상/부산", "경상-부산", "jeju", "gyeonggi-seoul"),
    "age": ("10대", "20대", "20~29", "20-29", "over70", "N/A", "N-A", "", "unknown", ".", ".."),
    "role": ("patient",),
    "code_switching": ("none", "latin"),
}


def test_every_group_has_a_metric_of_its_own() -> None:
    groups = {
        field: {value: {"cer": number / 100} for number, value in enumerate(values)} for field, values in NAMED.items()
    }
    metrics = group_metrics(cast(Scores, cast(Any, {"overall": {}, "groups": groups})), "test/")
    assert len(metrics) == sum(map(len, NAMED.values()))
    for field, values in NAMED.items():
        for number, value in enumerate(values):
            assert metrics[f"test/cer/{field}/{ascii_value(value)}"] == number / 100


def test_names_stay_as_they_are() -> None:
    kept = ("Female", "over70", "20-29", "gyeonggi-seoul", "jeju", "other-foreign", "N-A", "unknown", "patient")
    values = ("Female", "over70", "20~29", "경기/서울", "제주", "기타(외국)", "N/A", "", "patient")
    assert tuple(map(ascii_value, values)) == kept
    assert ascii_value("남성") == "namseong-5b225182"


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_two_values_have_two_names_that_mlflow_takes(one: str, two: str) -> None:
    for value in (one, two, ascii_value(one)):
        assert re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", ascii_value(value))
        assert not re.fullmatch(r"\.+", ascii_value(value))
    assert (ascii_value(one) == ascii_value(two)) == (one == two)
