"""Requests of a served model that run at the same time, that nobody waits for any more, or that take too long."""

import concurrent.futures
import io
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from fault_table import fault
from mlflow.exceptions import MlflowException
from random_whisper import save_random_whisper

from kmed_bench.tracking.registry import pyfunc_model
from kmed_bench.tracking.registry.models import LIMITS
from kmed_bench.tracking.registry.pyfunc_model import Limits, WhisperModel

pytestmark = [pytest.mark.filterwarnings("ignore:unclosed file .*tiktoken:ResourceWarning")]


@pytest.fixture
def model(tmp_path: Path) -> WhisperModel:
    loaded = WhisperModel()
    checkpoint = save_random_whisper(tmp_path / "tiny.pt")
    loaded.load_context(
        SimpleNamespace(artifacts={"checkpoint": str(checkpoint)}, model_config={"language": "ko", **LIMITS})
    )
    return loaded


def test_limits_are_those_of_the_settings_else_those_of_new_models() -> None:
    assert Limits.from_config({"language": "ko"}) == Limits.from_config(LIMITS)
    assert Limits.from_config({"max_rows": "3", "max_audio_mib": 1}) == Limits(max_rows=3, max_audio_mib=1.0)


def noise(duration_s: float, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    samples = 0.1 * np.random.default_rng(seed).standard_normal(int(duration_s * 8_000))
    soundfile.write(buffer, samples, 8_000, format="FLAC")
    return buffer.getvalue()


def table(*contents: bytes) -> pd.DataFrame:
    return pd.DataFrame({"audio": contents})


def count(model: WhisperModel) -> list[str]:
    """The windows and steps that the model computes from now on."""
    seen: list[str] = []
    model.model.encoder.conv1.register_forward_pre_hook(lambda *_: seen.append("window"))
    model.model.decoder.blocks[0].register_forward_pre_hook(lambda *_: seen.append("step"))
    return seen


def n_hooks(model: WhisperModel) -> int:
    return sum(len(module._forward_hooks) for module in model.model.modules())


@fault(
    "the client of a served request leaves while it is decoded",
    sees="the request stops before the next step; nothing is computed for it any more",
    survives="the model: the next request gets the text that it would have got",
)
@pytest.mark.parametrize("duration_s", [5.0, 100.0], ids=["one window", "several windows"])
@pytest.mark.parametrize("n_steps", [0, 3])
def test_a_request_whose_client_left_stops_at_the_next_step(
    model: WhisperModel, duration_s: float, n_steps: int
) -> None:
    before = model.predict(table(noise(2.0)))
    hooks, seen = n_hooks(model), count(model)
    model.is_abandoned = lambda: seen.count("step") >= n_steps  # type: ignore[method-assign]
    with pytest.raises(MlflowException, match="client is gone") as caught:
        model.predict(table(noise(duration_s)))
    assert caught.value.get_http_status_code() == 499
    assert (seen.count("window"), seen.count("step")) == (min(n_steps, 1), n_steps)
    assert n_hooks(model) == hooks  # openai-whisper's cache is gone
    model.is_abandoned = lambda: False  # type: ignore[method-assign]
    pd.testing.assert_frame_equal(model.predict(table(noise(2.0))), before)


@fault(
    "the client of a served request leaves while other requests have the model",
    sees="the request leaves the queue",
    survives="the request that has the model, and those that wait",
)
def test_a_request_that_waits_can_be_left(model: WhisperModel) -> None:
    main = threading.get_ident()
    model.is_abandoned = lambda: threading.get_ident() != main  # type: ignore[method-assign]
    holder = pyfunc_model._Job(lambda: False)
    model._turns.take(holder)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        left = pool.submit(model.predict, table(noise(1.0)))
        with pytest.raises(MlflowException, match="client is gone"):
            left.result()
    assert model._turns._queue == [holder]
    model._turns.leave(holder)
    assert len(model.predict(table(noise(1.0)))) == 1


@fault(
    "a served request takes longer than the server's timeout",
    sees="HTTP 504 with the limit; the request stops, where MLflow alone would let it run on",
    survives="other requests",
)
def test_a_request_ends_with_the_servers_timeout(model: WhisperModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "0")
    assert len(model.predict(table(noise(1.0)))) == 1  # not on a server
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    seen = count(model)
    with pytest.raises(MlflowException, match="longer than this server's limit of 0 s") as caught:
        model.predict(table(noise(1.0)))
    assert (caught.value.get_http_status_code(), seen) == (504, [])
    monkeypatch.delenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT")  # as in `mlflow models predict`
    assert len(model.predict(table(noise(1.0)))) == 1


@pytest.mark.slow
def test_a_short_request_is_answered_between_the_windows_of_a_long_one(model: WhisperModel) -> None:
    waits = threading.Event()
    order: list[str] = []

    def let_the_short_one_in(*_: Any) -> None:
        waits.set()
        while not order and len(model._turns._queue) < 2:  # until the short request is in the queue
            threading.Event().wait(0.01)

    hook = model.model.encoder.conv1.register_forward_pre_hook(let_the_short_one_in)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        long = pool.submit(model.predict, table(noise(290.0)))
        long.add_done_callback(lambda _: order.append("long"))
        waits.wait()
        short = pool.submit(model.predict, table(noise(1.0)))
        short.add_done_callback(lambda _: order.append("short"))
    hook.remove()
    assert order == ["short", "long"]


@pytest.mark.slow
def test_requests_at_the_same_time_get_their_own_texts(model: WhisperModel) -> None:
    tables = [table(noise(100.0, 1)), table(noise(2.0, 2), noise(3.0, 3)), table(noise(65.0, 4)), table(noise(1.0, 5))]
    alone = [model.predict(each, {"detail": True}) for each in tables]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda each: model.predict(each, {"detail": True}), tables))
    for one, other in zip(alone, together, strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert model._turns._queue == []


@pytest.mark.slow
def test_audio_beyond_what_is_kept_is_read_again(model: WhisperModel, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [noise(1.0 + 0.5 * n, n) for n in range(5)] + [noise(40.0)]
    kept = model.predict(table(*contents), {"detail": True})
    monkeypatch.setattr(pyfunc_model, "KEPT_SAMPLES", 40_000)  # the first two
    read, original = [], model.reader.read
    monkeypatch.setattr(model.reader, "read", lambda number, row: read.append(number) or original(number, row))
    pd.testing.assert_frame_equal(model.predict(table(*contents), {"detail": True}), kept)
    assert read == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5]


@fault(
    "a file named in a request changes while the request runs",
    sees="the row, and to send it again",
    survives="the model",
)
def test_a_file_that_changes_meanwhile_is_an_error(
    model: WhisperModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyfunc_model, "KEPT_SAMPLES", 0)
    path = tmp_path / "a.flac"
    path.write_bytes(noise(1.0))
    transcribe = model._transcribe
    monkeypatch.setattr(model, "_transcribe", lambda *given: path.write_bytes(noise(2.0)) and transcribe(*given))
    with pytest.raises(MlflowException, match="Row 0 changed while the request ran; send it again"):
        model.predict(pd.DataFrame({"path": [str(path)]}))
