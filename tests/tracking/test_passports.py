"""Model passports: what they say, what `verify` finds, and which code a model may bring."""

import base64
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from random_whisper import save_random_whisper

from kmed_bench.cli import main
from kmed_bench.config import load_config
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import sha256_of
from kmed_bench.core.run_contracts import PASSPORT
from kmed_bench.core.signatures import digest_of, faults_of, read_private_key, seal
from kmed_bench.pipeline.verify import verify_model
from kmed_bench.tracking import runs
from kmed_bench.tracking.registry import models as registry
from kmed_bench.tracking.registry.fetch import fetch_model
from kmed_bench.tracking.registry.serving import _load

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:unclosed file .*tiktoken:ResourceWarning"),
]
SHA = "cd" * 32
CELL = {"cer": 0.1, "cer_low": 0.0, "cer_high": 0.2, "n_clips": 40, "n_speakers": 9}


def write_keys(folder: Path, name: str, key: Any = None) -> tuple[Path, Path]:
    key = key or Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


class Signed:
    """A registered model with a signed passport, as the store gives it out, and the keys."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.private, self.public = write_keys(folder, "hospital")
        self.other_private, self.other_public = write_keys(folder, "other")
        checkpoint = save_random_whisper(folder / "tiny.pt")
        scores = {
            "format": "kmed-scores",
            "version": 2,
            "overall": CELL,
            "groups": {"gender": {"F": {**CELL, "below_minimum": False}, "M": {**CELL, "below_minimum": True}}},
            "elderly_gap": {"cer_gap": None},
            "minimum": {"clips": 30, "speakers": 5},
            "transcript_policy": "pronunciation",
            **dict.fromkeys(("normaliser_version", "marks_version", "numbers_version", "terms_version"), "7"),
            "variants_version": "8",
        }
        config = load_config("demo", {"tracking.uri": self.uri})
        tags = {"kmed.split_label": "leaking speakers", "kmed.synthetic": "false", "kmed.weights_sha256": "ab" * 32}
        with runs.bench_run(config, code_version="1.2") as bench, bench.child("train", "t", tags=tags) as run:
            run.log_dataset(sha256=SHA, counts={"train": 3, "valid": 2, "test": 1}, context="training")
            run.log_json(scores, "scores.json")
            run.log_metrics({"speed/test_rtfx": 9.5, "untouched/test_cer": 0.4})
            self.model = registry.log_model(
                run, checkpoint, size="tiny", split_sha256=SHA, tags=tags, sign_key=str(self.private)
            ).uri
        self.folder = fetch_model(self.model, folder / "fetched", tracking_uri=self.uri)
        self.passport: dict[str, Any] = dict(PASSPORT.read(self.folder / "artifacts" / "passport.json"))


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed(tmp_path_factory.mktemp("signed"))


@pytest.fixture
def copy(signed: Signed, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed.folder, tmp_path / "model"))


def test_a_passport_says_what_the_model_is(signed: Signed) -> None:
    said = signed.passport
    described = yaml.safe_load((signed.folder / "MLmodel").read_text(encoding="utf-8"))
    flavor = described["flavors"]["python_function"]  # no folder of the machine that logged it
    assert {name: one["uri"] for name, one in flavor["artifacts"].items()} == {
        "card": "MODEL_CARD.md", "checkpoint": "tiny.pt", "passport": "passport.json",
    }  # fmt: skip
    assert flavor["model_code_path"] == "pyfunc_model.py"
    text = yaml.safe_dump({**described, "artifact_path": ""})
    assert tempfile.gettempdir() not in text
    assert str(signed.private.parent) not in text
    artifacts = signed.folder / "artifacts"
    assert said["files"] == {name: sha256_of(artifacts / name) for name in ("tiny.pt", "MODEL_CARD.md")}
    assert said["split"] == {
        "sha256": SHA,
        "label": "leaking speakers",
        "clips": {"train": 3, "valid": 2, "test": 1},
    }
    assert said["results"]["groups"] == {"gender": {"F": CELL}}
    assert (said["results"]["groups_left_out"], said["results"]["minimum"]) == (1, {"clips": 30, "speakers": 5})
    assert said["rules"]["variants_version"] == "8"
    assert said["speed"] == {"test_rtfx": 9.5}
    assert said["training"]["train.lr"] == "2e-05"
    assert said["data"]["synthetic"] is False
    assert "AI Hub data set 208" in said["data"]["terms"]
    assert said["origin"]["weights_sha256"] == "ab" * 32
    assert said["lock_sha256"] == sha256_of(Path(__file__).parents[2] / "requirements.lock")
    card = (artifacts / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"| checkpoint SHA-256 | `{said['files']['tiny.pt']}` |" in card
    assert "| split | `leaking speakers` |" in card


def test_the_command_verifies_the_model_of_the_store(signed: Signed, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["verify", signed.model, "--tracking.uri", signed.uri, "--public-key"]
    assert main([*words, str(signed.public)]) == 0
    out = capsys.readouterr().out
    assert "CER 10.0 % (0.0 % to 20.0 %), untouched 40.0 %, 40 clips of 9 speakers; 1 groups, 1 under" in out
    assert "Verified: the files, the passport and its signature hold." in out
    assert main([*words, str(signed.other_public)]) == 1
    assert "NOT VERIFIED: it was signed with another key" in capsys.readouterr().out


def edit_passport(copy: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = copy / "artifacts" / "passport.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def forge(content: dict[str, Any], key: Path | None) -> None:
    """Claim a lower CER and seal it again, as someone without the hospital's key could."""
    content["results"]["overall"]["cer"] = 0.01
    content.update(seal(content, key and read_private_key(key)))


def damage_weights(copy: Path) -> None:
    path = copy / "artifacts" / "tiny.pt"
    content = torch.load(path, weights_only=True)
    content["model_state_dict"]["decoder.ln.bias"] += 1
    torch.save(content, path)


FAULTS: list[tuple[Callable[[Path, Signed], object], str]] = [
    (lambda copy, _: damage_weights(copy), "tiny.pt was changed: its SHA-256 is"),
    (lambda copy, _: (copy / "artifacts" / "tiny.pt").unlink(), "tiny.pt is missing"),
    (lambda copy, _: (copy / "artifacts" / "b.bin").touch(), "b.bin is there, and the passport does not name it"),
    (lambda copy, _: edit_passport(copy, lambda c: c["limits"].clear()), "the passport was changed"),
    (lambda copy, _: edit_passport(copy, lambda c: c["signature"].update(value="AA==")), "signature does not fit"),
    (lambda copy, _: edit_passport(copy, lambda c: c["signature"].update(public_key="!")), "signature is damaged"),
    (lambda copy, s: edit_passport(copy, lambda c: forge(c, s.other_private)), "signed with another key"),
    (lambda copy, _: edit_passport(copy, lambda c: forge(c, None)), "is not signed, and a public key was given"),
    (lambda copy, _: (copy / "artifacts" / "passport.json").unlink(), "has no passport.json"),
    (lambda copy, _: (copy / "pyfunc_model.py").write_text("import os"), "would run other code than the passport's"),
]


@pytest.mark.parametrize(("damage", "said"), FAULTS)
def test_what_does_not_hold_is_said(
    damage: Callable[[Path, Signed], object], said: str, copy: Path, signed: Signed
) -> None:
    assert not verify_model(str(copy), signed.public, tracking_uri=None).faults
    damage(copy, signed)
    faults = verify_model(str(copy), signed.public, tracking_uri=None).faults
    assert any(said in fault for fault in faults), faults


def test_without_a_key_a_forged_passport_shows_whose_it_is(copy: Path, signed: Signed) -> None:
    edit_passport(copy, lambda content: forge(content, signed.other_private))
    verdict = verify_model(str(copy), None, tracking_uri=None)
    assert not verdict.faults
    assert verdict.said[-1].startswith("Signature: fits the key ")
    assert "give --public-key" in verdict.said[-1]


def test_names_that_leave_the_folder_are_not_followed(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"x")
    digest = sha256_of(tmp_path / "outside")
    edit_passport(copy, lambda c: c.update(seal({**c, "files": {**c["files"], "../../outside": digest}}, None)))
    assert verify_model(str(copy), None, tracking_uri=None).faults == ("../../outside is missing",)


def test_an_export_hands_the_passport_on(copy: Path, signed: Signed, tmp_path: Path) -> None:
    out = tmp_path / "export"
    words = ["export", str(copy / "artifacts" / "tiny.pt"), str(out), "--format", "openai"]
    assert main([*words, "--sign-key", str(signed.private)]) == 0
    made = PASSPORT.read(out / "passport.json")
    assert set(made["files"]) == {"model.pt", "export.json"}
    assert made["export"] is not None
    assert made["export"]["made_from"]["passport_sha256"] == signed.passport["sha256"]
    assert made["results"] == signed.passport["results"]
    assert not verify_model(str(out), signed.public, tracking_uri=None).faults
    damage_weights(copy)
    with pytest.raises(KmedError, match=r"is not what its passport says: tiny\.pt was changed"):
        parse_and_run([*words[:2], str(tmp_path / "again"), "--format", "openai"])


def parse_and_run(words: list[str]) -> int:
    from kmed_bench.cli import parse

    args = parse(words)
    return int(args.command(args))


def test_seal_covers_every_value_and_survives_another_order() -> None:
    key = Ed25519PrivateKey.generate()
    content = {"a": [1, {"글": 0.1}], "b": None}
    sealed = seal(content, key)
    assert faults_of(json.loads(json.dumps(dict(reversed(sealed.items())))), key.public_key()) == []
    assert digest_of({**sealed, "b": ""}) != sealed["sha256"]
    assert len(base64.b64decode(sealed["signature"]["value"])) == 64


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "ec", generate_private_key(SECP256R1()))
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    for path, said in (
        (private, "not an Ed25519 key; make one with `openssl genpkey"),
        (public, "is not a private key in PEM"),
        (locked, "has a passphrase"),
        (tmp_path / "none.pem", "can't be read"),
    ):
        with pytest.raises(KmedError, match=said):
            read_private_key(path)


def test_a_served_model_may_only_bring_our_code(copy: Path, signed: Signed, tmp_path: Path) -> None:
    code = copy / "pyfunc_model.py"
    code.write_text(
        f"import os; os.mkdir({str(tmp_path / 'ran')!r})\n" + code.read_text(encoding="utf-8"), encoding="utf-8"
    )
    with pytest.raises(KmedError, match=r"its pyfunc_model\.py is of another release or author"):
        _load(str(copy), tmp_path, signed.uri, trust_code=False)
    assert not (tmp_path / "ran").exists()
    assert _load(str(copy), tmp_path, signed.uri, trust_code=True)
    assert (tmp_path / "ran").exists()
