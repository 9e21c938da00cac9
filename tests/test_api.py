"""What `import kmed_bench` promises: the names, and the documented path from a manifest to a comparison."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import kmed_bench
from kmed_bench.asr.model import weights
from kmed_bench.config import load_config
from kmed_bench.corpus.demo.demo import make_demo_corpus

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(kmed_bench.PUBLIC))
def test_every_public_name_is_there_documented_and_described(name):
    value = getattr(kmed_bench, name)
    assert value.__doc__
    assert value.__module__.startswith("kmed_bench.")
    assert f"`{name}" in DOCUMENT.split("```")[0]


def test_the_page_lists_no_name_that_is_not_public():
    table = DOCUMENT.split("```")[0]
    assert set(re.findall(r"`([A-Za-z_]+)\(", table)) <= set(kmed_bench.PUBLIC) | {"help"}
    with pytest.raises(AttributeError, match="no attribute 'narrate'"):
        _ = kmed_bench.narrate


def test_importing_the_package_loads_no_library():
    code = "import sys, kmed_bench; sys.exit(bool({'torch', 'pandas', 'mlflow', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_documented_path_runs_as_printed(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_demo_corpus(tmp_path / "corpus", speakers=4, sentences=16, seed=1, layout="tree")
    kmed_bench.ingest([tmp_path / "corpus"], tmp_path / "kmed-output" / "manifest", load_config("demo").data)
    # The same lines on a corpus and a model that take seconds.
    found = weights.Weights("base", tiny_checkpoint, "path", "0" * 64)
    monkeypatch.setattr(weights, "find_weights", lambda size: found)
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    small = {"split.train": "8", "split.valid": "2", "split.test": "2"}
    for key, value in small.items():
        block, n = re.subn(rf'"{key}": \d+', f'"{key}": {value}', block)
        assert n == 1
    block = block.replace('"train.epochs": 1', '"train.epochs": 1, "split.disjoint": "none", "eval.max_new_tokens": 8')
    names: dict[str, object] = {}
    exec(block, names)
    epoch, rates, delta = capsys.readouterr().out.splitlines()
    assert epoch.startswith("1 ")
    cer = names["scores"]["overall"]["cer"]
    assert rates.split()[0] == str(cer)
    before = kmed_bench.score_predictions(names["untouched"])["overall"]["cer"]
    assert float(delta) == pytest.approx(cer - before)
    assert len(names["tuned"]) == 2
