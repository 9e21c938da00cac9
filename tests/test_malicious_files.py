"""No file that the package reads can make it execute anything, and its own code has no call that could."""

import ast
import contextlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from fuzz_targets import make_targets, quiet
from malicious import HF_READ, HF_REFUSED, READ, REFUSED, TEXT_TARGETS, Read, as_code, pickled, spellings

from kmed_bench.core.errors import KmedError
from kmed_bench.tracking.registry.fetch import fetch_checkpoint, foreign_code
from kmed_bench.tracking.registry.serving import _load

PACKAGE = Path(__file__).parents[1] / "kmed_bench"


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """The folder that a payload makes; there is none when the test ends."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "a payload was executed"
    assert {entry.name for entry in tmp_path.iterdir()} <= {"given", "fetched"}, "something was written elsewhere"


@pytest.fixture
def given(tmp_path: Path) -> Path:
    folder = tmp_path / "given"
    folder.mkdir()
    return folder


def test_the_payloads_work(tmp_path: Path) -> None:
    pickle.loads(pickled(tmp_path / "a"))
    yaml.unsafe_load(spellings(tmp_path / "b")["yaml tag"])
    exec(as_code(tmp_path / "c"))
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_it_is_refused(make: Callable[[Path, Path], Read], given: Path, mark: Path) -> None:
    read = make(given, mark)
    with pytest.raises(KmedError):
        read()


@pytest.mark.parametrize("make", READ.values(), ids=READ)
def test_it_is_read_as_data(make: Callable[[Path, Path], Read], given: Path, mark: Path) -> None:
    make(given, mark)()


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    from kmed_bench.asr.model.weights import load_weights
    from kmed_bench.asr.runtimes.hf_format import write_hf_folder

    folder = tmp_path_factory.mktemp("hf")
    write_hf_folder(load_weights(tiny_checkpoint), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("make", HF_REFUSED.values(), ids=HF_REFUSED)
def test_weights_of_others_are_not_unpickled(
    make: Callable[[Path, Path, Path], Read], given: Path, mark: Path, hf: Path
) -> None:
    read = make(given, mark, hf)
    with pytest.raises(KmedError):
        read()


@pytest.mark.slow
@pytest.mark.parametrize("make", HF_READ.values(), ids=HF_READ)
def test_classes_that_a_folder_brings_are_not_imported(
    make: Callable[[Path, Path, Path], Read], given: Path, mark: Path, hf: Path
) -> None:
    import numpy as np

    backend = make(given, mark, hf)()
    assert len(backend.transcribe([np.zeros(16_000, dtype=np.float32)])) == 1


@pytest.mark.parametrize("name", TEXT_TARGETS)
def test_pickles_and_tags_are_not_executed_by_any_reader(
    name: str, given: Path, mark: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = make_targets(tmp_path_factory.mktemp("seeds"), (name,))[name]
    with quiet():
        for payload in spellings(mark).values():
            with contextlib.suppress(*target.allowed):
                target.call(payload, given)


FLAVOR = "flavors:\n  python_function:\n    python_version: 3.11.7\n    "
MODELS = {
    "pickle": "loader_module: mlflow.pyfunc.model\n    python_model: python_model.pkl",
    "pickle beside our code": "loader_module: mlflow.pyfunc.loaders.code_model\n    python_model: python_model.pkl\n"
    "    model_code_path: pyfunc_model.py",
    "loader": "loader_module: evil\n    code: code",
    "loader in data": "loader_module: mlflow.pyfunc.loaders.code_model\n    data: code\n"
    "    model_code_path: pyfunc_model.py",
    "code path": "loader_module: mlflow.pyfunc.loaders.code_model\n    code: code\n"
    "    model_code_path: pyfunc_model.py",
    "own code": "loader_module: mlflow.pyfunc.loaders.code_model\n    model_code_path: evil.py",
    "no code": "loader_module: mlflow.pyfunc.loaders.code_model",
    "sklearn": "loader_module: mlflow.sklearn\n    model_path: python_model.pkl",
    "tag": "loader_module: !!python/object/apply:os.mkdir [{mark}]",
}


@pytest.mark.parametrize("text", MODELS.values(), ids=MODELS)
def test_models_of_others_bring_no_code(text: str, given: Path, mark: Path, tmp_path: Path) -> None:
    from kmed_bench.config import Config
    from kmed_bench.pipeline.models import find_model
    from kmed_bench.pipeline.verify import verify_model
    from kmed_bench.tracking.registry.fetch import MODEL_CODE

    (given / "MLmodel").write_text(FLAVOR + text.replace("{mark}", str(mark)) + "\n", encoding="utf-8")
    (given / "python_model.pkl").write_bytes(pickled(mark))
    (given / "pyfunc_model.py").write_bytes(MODEL_CODE.read_bytes())
    (given / "code").mkdir()
    for path in (given / "evil.py", given / "code" / "evil.py", given / "code" / "torch.py"):
        path.write_text(as_code(mark), encoding="utf-8")
    store = f"sqlite:///{given}/none.db"
    with pytest.raises(KmedError, match=r"would run code that this release did not write|is no MLflow model"):
        _load(str(given), tmp_path / "fetched", store, trust_code=False)
    with pytest.raises(KmedError, match=r"holds 0 \.pt files"):
        fetch_checkpoint(str(given), tmp_path / "fetched", tracking_uri=store)
    with pytest.raises(KmedError, match="holds no model"):
        find_model(Config(), str(given), tmp_path / "fetched")
    assert verify_model(str(given), None, tracking_uri=None).faults


def test_our_own_code_is_known(given: Path, mark: Path) -> None:
    from kmed_bench.tracking.registry.fetch import MODEL_CODE

    text = f"{FLAVOR}loader_module: mlflow.pyfunc.loaders.code_model\n    model_code_path: /x/pyfunc_model.py\n"
    (given / "MLmodel").write_text(text, encoding="utf-8")
    (given / "pyfunc_model.py").write_bytes(MODEL_CODE.read_bytes())
    assert foreign_code(given) == ""
    (given / "pyfunc_model.py").write_bytes(MODEL_CODE.read_bytes() + b"\n")
    assert foreign_code(given) == "its pyfunc_model.py is of another release or author"


def faults(tree: ast.AST) -> Iterator[str]:
    """Yield the calls and imports that execute what they are given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (name for name in names if name.split(".")[0] in UNPICKLERS)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called in EXECUTING or called.split(".")[-1] in ("read_pickle", "unsafe_load", "full_load"):
            yield called
        if given.get("shell", "False") != "False" or given.get("allow_pickle", "False") != "False":
            yield f"{called} with {given}"
        if given.get("trust_remote_code", "False") != "False":
            yield f"{called} with {given}"
        if called == "torch.load" and given.get("weights_only") != "True":
            yield "torch.load without weights_only"
        if called.endswith(".from_pretrained") and given.get("trust_remote_code") != "False":
            yield "from_pretrained without trust_remote_code=False"
        if called in ("yaml.load", "yaml.load_all"):
            yield called


UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "jsonpickle"}
EXECUTING = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.startfile", "numpy.load", "np.load",
    "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn", "runpy.run_path", "torch.jit.load",
    "torch.hub.load", "torch.package.PackageImporter", "tarfile.extractall", "shutil.unpack_archive",
}  # fmt: skip


def test_the_search_finds_what_it_looks_for() -> None:
    code = (
        "import pickle\nfrom joblib import load\nos.system(x)\ntorch.load(p)\nrun(x, shell=True)\nyaml.load(x)\neval(x)"
    )
    found = list(faults(ast.parse(code)))
    assert found == [
        "pickle", "joblib", "os.system", "torch.load without weights_only", "run with {'shell': 'True'}", "yaml.load",
        "eval",
    ]  # fmt: skip
    assert list(faults(ast.parse("torch.load(p, weights_only=True)\nre.compile(x)\nrun(x, shell=False)"))) == []


def test_no_call_of_the_package_executes_what_it_reads() -> None:
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "scripts").glob("*.py")]
    found = {f"{path.name}: {fault}" for path in files for fault in faults(ast.parse(path.read_text(encoding="utf-8")))}
    assert found == set()
    assert len(files) > 250
