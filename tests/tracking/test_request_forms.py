"""The bodies that `mlflow models serve` takes, read by MLflow's own parsers with the registered model's signature."""

import base64
import io
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from mlflow.models.utils import _enforce_schema
from mlflow.pyfunc.scoring_server import infer_and_parse_data, parse_csv_input

from kmed_bench.tracking.registry.models import signature
from kmed_bench.tracking.registry.pyfunc_model import AudioReader

TONES = [0.1 * np.sin(np.arange(800) / n) for n in (5, 7)]


def text64(tone: np.ndarray) -> str:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone, 16_000, format="WAV", subtype="FLOAT")
    return base64.b64encode(buffer.getvalue()).decode()


FILES = [text64(tone) for tone in TONES]
NUMBERS = [[float(value) for value in tone] for tone in TONES]
RATES = [16_000, 16_000]
SAMPLES = [{"samples": samples, "rate_hz": 16_000} for samples in NUMBERS]


def csv(**columns: list[Any]) -> str:
    return pd.DataFrame(columns).to_csv(index=False)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(csv(audio_base64=FILES), id="csv, audio_base64"),
        pytest.param(csv(audio=FILES), id="csv, audio"),
        pytest.param(csv(samples=[json.dumps(row) for row in NUMBERS], rate_hz=RATES), id="csv, samples"),
        pytest.param({"dataframe_split": {"columns": ["audio"], "data": [[file] for file in FILES]}}, id="split"),
        pytest.param(
            {"dataframe_split": {"columns": ["samples", "rate_hz"], "data": [[row, 16_000] for row in NUMBERS]}},
            id="split, samples",
        ),
        pytest.param({"dataframe_records": [{"audio": file} for file in FILES]}, id="records"),
        pytest.param({"dataframe_records": [{"audio_base64": file} for file in FILES]}, id="records, audio_base64"),
        pytest.param({"dataframe_records": SAMPLES}, id="records, samples"),
        pytest.param({"instances": [{"audio_base64": file} for file in FILES]}, id="instances"),
        pytest.param({"instances": SAMPLES}, id="instances, samples"),
        pytest.param({"inputs": {"audio_base64": FILES}}, id="inputs"),
        pytest.param({"inputs": [{"audio_base64": file} for file in FILES]}, id="inputs, records"),
        pytest.param({"inputs": {"samples": NUMBERS, "rate_hz": RATES}}, id="inputs, samples"),
    ],
)
def test_a_body_gives_the_model_its_audio_row_by_row(body: Any) -> None:
    schema = signature().inputs
    if isinstance(body, str):
        table = parse_csv_input(io.StringIO(body), schema=schema)
    else:
        table = infer_and_parse_data(json.loads(json.dumps(body)), schema)
    rows = _enforce_schema(table, schema).to_dict("records")
    reader = AudioReader(max_bytes=2**20, max_s=1.0)
    assert len(rows) == len(TONES)
    for number, (row, tone) in enumerate(zip(rows, TONES, strict=True)):
        np.testing.assert_allclose(reader.read(number, row), tone.astype(np.float32), atol=1e-7)
