"""Who can open what a run wrote: every file is either private or has the rights that the umask leaves."""

import re
from pathlib import Path

from kmed_bench.core.schema import read_manifest

# With transcripts, utterance ids or audio; by their place below a folder of results, a cache or a store.
_PRIVATE = re.compile(
    r"(.*/)?(manifest\.parquet|([^/]+\.)?rejects\.csv|data\.html|(?<!artifacts/)quality\.json|quality_examples\.csv"
    r"|(train|valid|test|left_out)\.parquet"
    r"|predictions\w*\.jsonl|state(\.previous)?\.pt|mlflow\.db|frames-\w+/[\w.]+)"
)
_LOG = re.compile(r"(?!mlruns/).*/kmed-bench\.log")
_OPEN = re.compile(
    r"(.*/)?(split|plan|training|scores\w*|leak|comparisons|speaker_errors\w*|export|verdict|sides|untouched)\.json"
    r"|(.*/)?(best|last|epoch\d+|model)\.pt|(.*/)?history\.csv|(.*/)?config\.yaml|(.*/)?[.\w-]+\.lock"
    r"|(.*/)?report/[\w-]+\.(csv|html|png|svg)|(.*/)?demo-corpus-\w+/.*|tiny\.pt"
    r"|mlruns/.*/(kmed-bench(-\d+)?\.log|artifacts/[\w.]+|MODEL_CARD\.md)"
)
# MLflow copies it with the rights of the installed file.
_INSTALLED = re.compile(r"mlruns/.*/pyfunc_model\.py")


def check_modes(folder: Path, umask: int) -> set[str]:
    """Assert that each file below a folder has the mode of its kind, and return the names of the private ones.

    No file that others may open has the id of an utterance in it; the generated corpus and tensors are not looked at.
    """
    private = set()
    ids = [id.encode() for path in folder.rglob("manifest.parquet") for id in read_manifest(path)["utterance_id"]]
    assert ids
    for path in sorted(folder.rglob("*")):
        name, mode = path.relative_to(folder).as_posix(), path.stat().st_mode & 0o777
        if path.is_dir():
            continue
        if _PRIVATE.fullmatch(name) or _LOG.fullmatch(name):
            assert mode == 0o600, (name, oct(mode))
            private.add(path.name)
            in_results = not name.startswith(("mlruns/", "mlflow.db")) and "report/" not in name
            if in_results and path.name != "kmed-bench.log":
                assert path.parent.stat().st_mode & 0o777 == 0o700, (name, oct(path.parent.stat().st_mode))
        elif not _INSTALLED.fullmatch(name):
            assert _OPEN.fullmatch(name), f"{name} is of no kind that this test knows: is it private?"
            assert mode == 0o666 & ~umask, (name, oct(mode))
            if "demo-corpus" not in name and path.suffix != ".pt":
                content = path.read_bytes()
                assert not any(id in content for id in ids), f"{name} names utterances"
    return private
