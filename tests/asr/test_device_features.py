import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kmed_bench.asr.features import device_store
from kmed_bench.asr.features.device_store import DeviceFeatures, fits
from kmed_bench.asr.features.store import build_features

CPU = torch.device("cpu")


class Calls(TorchDispatchMode):
    """Keeps the names of the operations that run under it."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module", params=["fp32", "fp16", "fp16 at 1.1"])
def disk(request, tone_part, tmp_path_factory):
    dtype, _, speed = request.param.partition(" at ")
    return build_features(tone_part, tmp_path_factory.mktemp("frames"), dtype=dtype, speed=float(speed or 1))


@pytest.fixture(scope="module")
def names(tone_part):
    return tone_part["utterance_id"].tolist()


@pytest.mark.parametrize("n_frames", [1, 2, 51, 150, 3000])
@pytest.mark.parametrize("order", [range(12), [11, 0, 5], [3, 3, 3, 0, 3], [7]], ids=str)
def test_windows_are_the_stores_to_the_bit(disk, names, n_frames, order):
    asked = [names[i] for i in order]
    expected = disk.window(asked, n_frames)
    found = DeviceFeatures(disk, names, CPU).window(asked, n_frames)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()


def test_a_choice_of_clips_in_another_order_keeps_its_own_frames(disk, names):
    kept = [names[9], names[2], names[4]]
    found = DeviceFeatures(disk, kept, CPU)
    assert torch.equal(found.window(names[4:5] + names[9:10], 300), disk.window(names[4:5] + names[9:10], 300))
    assert found.rows(kept[::-1]).tolist() == [2, 1, 0]
    assert [found.n_frames(name) for name in kept] == [disk.n_frames(name) for name in kept]
    with pytest.raises(KeyError):
        found.rows([names[0]])


@pytest.mark.parametrize("piece_bytes", [1, 30_000, 1 << 30])
def test_the_size_of_the_pieces_that_are_copied_does_not_show(disk, names, piece_bytes, monkeypatch):
    monkeypatch.setattr(device_store, "_PIECE_BYTES", piece_bytes)
    assert torch.equal(DeviceFeatures(disk, names, CPU).window(names, 200), disk.window(names, 200))


def test_the_stores_number_format_and_size_are_kept(disk, names):
    found = DeviceFeatures(disk, names, CPU)
    assert found._frames.dtype == {"fp32": torch.float32, "fp16": torch.float16}[disk.dtype]
    assert found._frames.nbytes == disk.n_bytes


@pytest.mark.slow  # torch imports much for its first dispatch mode
def test_gathering_reads_nothing_back(disk, names):
    found = DeviceFeatures(disk, names, CPU)
    rows = found.rows(names[:3])
    with Calls() as calls:
        found.gather(rows, 120)
    assert any("index" in name for name in calls.names)
    reads = ("_local_scalar_dense", "nonzero", "masked_select", "item", "is_nonzero", "equal", "_to_cpu", "unique")
    assert not [name for name in calls.names if name.split(".")[1] in reads]


@pytest.mark.parametrize(
    ("device", "n_bytes", "expected"),
    [("cuda", 250, True), ("cuda", 251, False), ("cuda", 0, True), ("cpu", 0, False), ("mps", 1, False)],
)
def test_a_quarter_of_a_gpus_free_memory_is_used(device, n_bytes, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1_000, 8_000))
    assert fits(n_bytes, torch.device(device)) is expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_a_cuda_graph_gathers_other_rows_than_it_was_recorded_with(disk, names):
    device = torch.device("cuda", 0)
    found = DeviceFeatures(disk, names, device)
    rows = found.rows(names[:4])
    assert rows.is_pinned()
    assert torch.equal(found.window(names, 200).cpu(), disk.window(names, 200))
    kept = rows.to(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        window = found.gather(kept, 90)
    for asked in (names[4:8], [names[11]] * 4, names[:4]):
        kept.copy_(found.rows(asked), non_blocking=True)
        graph.replay()
        assert torch.equal(window.cpu(), disk.window(asked, 90))
