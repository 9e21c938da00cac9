"""Files of every format that the package reads, each with a payload that would leave a mark if it were executed.

Each maker writes its file and returns the call that reads it. A payload makes the folder ``mark``.
"""

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Read = Callable[[], object]
TEXT_TARGETS = (
    "label", "archives", "predictions", "yaml", "space", "package", "package-table", "import-log", "split", "frozen",
    "parquet", "checkpoint", "training-record",
)  # fmt: skip


class Payload:
    """Makes the folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def pickled(mark: Path) -> bytes:
    return pickle.dumps({"dims": Payload(mark), "model_state_dict": {}, "version": 1, "fingerprint": "", "account": {}})


def as_code(mark: Path) -> str:
    return f"import os\nos.mkdir({str(mark)!r})\n"


def spellings(mark: Path) -> dict[str, bytes]:
    """Return payloads for readers of one file: pickles, and texts that careless parsers execute."""
    call = {"py/reduce": [{"py/function": "os.mkdir"}, {"py/tuple": [str(mark)]}]}
    array = io.BytesIO()
    import numpy as np

    np.save(array, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    return {
        "pickle": pickled(mark),
        "object array": array.getvalue(),
        "yaml tag": f"!!python/object/apply:os.mkdir [{mark}]\n".encode(),
        "yaml value": f"train:\n  lr: !!python/object/apply:os.mkdir ['{mark}']\n".encode(),
        "json": json.dumps(call).encode(),
        "json line": json.dumps({"utterance_id": call, "hypothesis": "__import__('os')"}).encode() + b"\n",
        "code": as_code(mark).encode(),
    }


# Checkpoints.


def zipped_checkpoint(folder: Path, mark: Path) -> Path:
    import torch

    path = folder / "best.pt"
    torch.save({"dims": Payload(mark), "model_state_dict": {"a": torch.zeros(1)}, "version": 1}, path)
    return path


def checkpoint(folder: Path, mark: Path) -> Read:
    from kmed_bench.asr.model.weights import load_weights

    path = zipped_checkpoint(folder, mark)
    return lambda: load_weights(path)


def old_checkpoint(folder: Path, mark: Path) -> Read:
    import torch

    from kmed_bench.asr.model.weights import load_weights

    path = folder / "best.pt"
    torch.save({"dims": Payload(mark)}, path, _use_new_zipfile_serialization=False)
    return lambda: load_weights(path)


def given_weights(folder: Path, mark: Path) -> Read:
    from kmed_bench.asr.model.weights import find_weights

    path = zipped_checkpoint(folder, mark)
    return lambda: find_weights("tiny", str(path))


def openai_folder(folder: Path, mark: Path) -> Read:
    from kmed_bench.asr.runtimes.formats import open_folder
    from kmed_bench.config import EvalConfig

    zipped_checkpoint(folder, mark)
    return lambda: open_folder(folder, EvalConfig())


def training_state(folder: Path, mark: Path) -> Read:
    import torch

    from kmed_bench.training.state import _read_state

    torch.save({"version": 1, "fingerprint": Payload(mark), "account": {}}, folder / "state.pt")

    def read() -> None:
        assert _read_state(folder / "state.pt") is None

    return read


# Folders of other libraries; `hf` is a valid one.


def hf_bin(folder: Path, mark: Path, hf: Path) -> Read:
    import torch

    from kmed_bench.asr.runtimes.hf_format import read_hf_folder

    shutil.copytree(hf, folder, dirs_exist_ok=True)
    (folder / "model.safetensors").unlink()
    torch.save({"model.encoder.conv1.bias": Payload(mark)}, folder / "pytorch_model.bin")
    return lambda: read_hf_folder(folder)


def hf_header(folder: Path, mark: Path, hf: Path) -> Read:
    from kmed_bench.asr.runtimes.hf_format import read_hf_folder

    shutil.copytree(hf, folder, dirs_exist_ok=True)
    head = json.dumps({"__metadata__": {"format": f"pt', os.mkdir('{mark}'), '"}, "a": {"dtype": "O"}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + pickled(mark))
    return lambda: read_hf_folder(folder)


def hf_pickle_named_safetensors(folder: Path, mark: Path, hf: Path) -> Read:
    from kmed_bench.asr.runtimes.hf_format import read_hf_folder

    shutil.copytree(hf, folder, dirs_exist_ok=True)
    zipped_checkpoint(folder, mark).replace(folder / "model.safetensors")
    return lambda: read_hf_folder(folder)


def hf_own_code(folder: Path, mark: Path, hf: Path) -> Read:
    """A whole folder that brings classes of its own for everything that transformers may load by name."""
    from kmed_bench.asr.runtimes.formats import open_folder
    from kmed_bench.config import EvalConfig

    shutil.copytree(hf, folder, dirs_exist_ok=True)
    (folder / "evil.py").write_text(as_code(mark), encoding="utf-8")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(as_code(mark), encoding="utf-8")
    classes = {
        "config.json": {"AutoConfig": "evil.C", "AutoModelForSpeechSeq2Seq": "evil.M"},
        "tokenizer_config.json": {"AutoTokenizer": ["evil.T", "evil.T"], "AutoProcessor": "evil.P"},
        "preprocessor_config.json": {"AutoFeatureExtractor": "evil.F", "AutoProcessor": "evil.P"},
        "processor_config.json": {"AutoProcessor": "evil.P"},
    }
    for name, auto_map in classes.items():
        path = folder / name
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        content |= {"auto_map": auto_map, "trust_remote_code": True, "custom_generate": "custom_generate"}
        path.write_text(json.dumps(content), encoding="utf-8")
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return lambda: open_folder(folder, EvalConfig(max_new_tokens=2))


def ct2(folder: Path, mark: Path) -> Read:
    return _foreign_folder(folder, {"model.bin": pickled(mark), "tokenizer.json": b"{}", "config.json": b"{}"})


def ggml(folder: Path, mark: Path) -> Read:
    return _foreign_folder(folder, {"ggml-model.bin": struct.pack("<I", 0x67676D6C) + pickled(mark)})


def onnx(folder: Path, mark: Path) -> Read:
    from kmed_bench.asr.runtimes.graphs import OnnxBackend  # noqa: F401  # the library is there

    pair = dict.fromkeys(("encoder.onnx", "decoder.onnx"), pickled(mark))
    return _foreign_folder(folder, {**pair, "graph.json": b"{}", "tokens.txt": b"a"})


def openvino(folder: Path, mark: Path) -> Read:
    library = f'<net name="a" version="11"><layers><layer id="0" type="X" version="{mark}.so"/></layers></net>'
    pair = dict.fromkeys(("encoder.xml", "decoder.xml"), library.encode())
    return _foreign_folder(folder, {**pair, "encoder.bin": pickled(mark), "decoder.bin": b"", "graph.json": b"{}"})


def _foreign_folder(folder: Path, files: dict[str, bytes]) -> Read:
    from kmed_bench.asr.runtimes.formats import open_folder
    from kmed_bench.config import EvalConfig

    for name, content in files.items():
        (folder / name).write_bytes(content)
    return lambda: open_folder(folder, EvalConfig())


# Tables.


def parquet_metadata(folder: Path, mark: Path) -> Read:
    """A manifest whose metadata holds a pickle wherever pandas and pyarrow keep type names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from kmed_bench.core.schema import read_manifest

    extension = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Payload(mark)),
    }
    from fuzz_targets import manifest_table

    table = pa.Table.from_pandas(manifest_table())
    fields = [pa.field(field.name, field.type, metadata=extension) for field in table.schema]
    about = json.loads(table.schema.metadata[b"pandas"])
    about["columns"][0] |= {"pandas_type": "object", "numpy_type": f"__import__('os').mkdir('{mark}')"}
    pandas = {b"pandas": json.dumps(about).encode(), b"index": pickle.dumps(Payload(mark))}
    table = table.cast(pa.schema(fields)).replace_schema_metadata(pandas)
    pq.write_table(table, folder / "manifest.parquet")
    return lambda: read_manifest(folder / "manifest.parquet")


def hub_dataset(folder: Path, mark: Path) -> Read:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from kmed_bench.corpus.imports.hub import read_hub_dataset

    extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled(mark)}
    fields = [pa.field("audio", pa.binary(), metadata=extension), pa.field("text", pa.string())]
    schema = pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": {"audio": {"_type": "X"}}}})})
    pq.write_table(pa.Table.from_pydict({"audio": [pickled(mark)], "text": ["가"]}, schema), folder / "a.parquet")
    return lambda: list(read_hub_dataset(folder))


def excel(folder: Path, mark: Path) -> Read:
    import openpyxl

    from kmed_bench.core.tables import read_table

    book = openpyxl.Workbook()
    book.active.append(["audio", "text"])
    book.active.append([f"=cmd|'/C mkdir {mark}'!A0", f'=HYPERLINK("file://{mark}")'])
    book.active.append(["a.wav", "가"])
    book.save(folder / "list.xlsx")
    with zipfile.ZipFile(folder / "list.xlsx", "a") as archive:
        archive.writestr("xl/vbaProject.bin", pickled(mark))
        archive.writestr("../../escaped", b"x")
    return lambda: read_table(folder / "list.xlsx")


# Archives: names and links that lead out.


def zip_names(folder: Path, mark: Path) -> Read:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for name in (f"../{mark.name}/x.wav", f"{mark}/x.wav", f"..\\{mark.name}\\x.wav"):
            archive.writestr(name, b"RIFF")
        link = zipfile.ZipInfo("link.wav")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(mark))
    return _ingested(folder)


def tar_links(folder: Path, mark: Path) -> Read:
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("fifo", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(mark.parent)
            archive.addfile(member)
        member = tarfile.TarInfo(f"link/{mark.name}/x.wav")
        archive.addfile(member)
        archive.addfile(tarfile.TarInfo(f"../{mark.name}"))
    return _ingested(folder)


def _ingested(folder: Path) -> Read:
    from kmed_bench.config import DataConfig
    from kmed_bench.corpus.ingest.manifest import ingest

    return lambda: ingest([folder], folder / "out", DataConfig(workers=1))


def bundle(folder: Path, mark: Path) -> Read:
    """A bundle that is whole by its own hashes, with a member that leads out."""
    import hashlib

    from kmed_bench.core.run_contracts import BUNDLE
    from kmed_bench.pipeline.bundling import read_bundle

    name = f"../{mark.name}/x"
    head: dict[str, Any] = {**BUNDLE.head, "code_version": "1", "minimum_speakers": 5, "groups_left_out": 0, "runs": []}
    with zipfile.ZipFile(folder / "b.zip", "w") as archive:
        archive.writestr(name, b"x")
        archive.writestr("bundle.json", json.dumps({**head, "files": {name: hashlib.sha256(b"x").hexdigest()}}))
    return lambda: read_bundle(folder / "b.zip")


REFUSED: dict[str, Callable[[Path, Path], Read]] = {
    "checkpoint": checkpoint,
    "checkpoint of old torch": old_checkpoint,
    "--weights": given_weights,
    "folder with a .pt": openai_folder,
    "ct2": ct2,
    "ggml": ggml,
    "onnx": onnx,
    "openvino": openvino,
    "zip": zip_names,
    "tar": tar_links,
    "bundle": bundle,
    "manifest": parquet_metadata,
}
"""What is refused with a KmedError."""
READ: dict[str, Callable[[Path, Path], Read]] = {
    "state.pt": training_state,
    "hub data set": hub_dataset,
    "excel": excel,
}
"""What is read as the data that it also is."""
HF_REFUSED = {"pytorch_model.bin": hf_bin, "safetensors": hf_header, "pickle": hf_pickle_named_safetensors}
HF_READ = {"auto_map": hf_own_code}
