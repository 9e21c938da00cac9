"""scripts/supply_chain.py: what it lets pass, and what it names."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import supply_chain  # noqa: E402

FOUND = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["1.1", "2.0"]}
JUDGED = {
    "allowed": ["MIT", "BSD-3-Clause", "ISC License (ISCL)", "Apache-2.0"],
    "packages": {"a-b": "its LICENSE file"},
}


@pytest.mark.parametrize(
    ("explained", "lines"),
    [
        ({}, ["torch 2.0: PYSEC-1, mended in 1.1, 2.0"]),
        ({"CVE-1": {"reason": "not called"}}, []),
        ({"PYSEC-1": {"reason": "not called"}}, []),
        ({"CVE-2": {"reason": "another"}}, ["torch 2.0: PYSEC-1, mended in 1.1, 2.0"]),
    ],
)
def test_an_advisory_passes_only_with_a_reason(explained, lines):
    audit = {"dependencies": [{"name": "torch", "version": "2.0", "vulns": [FOUND]}, {"name": "x", "version": "1"}]}
    assert supply_chain.unexplained(audit, explained) == lines


@pytest.mark.parametrize(
    ("licence", "passes"),
    [
        ("MIT", True),
        ("ISC License (ISCL)", True),
        ("MIT AND BSD-3-Clause", True),
        ("(MIT OR GPL-3.0-only) AND BSD-3-Clause", True),
        ("MIT AND GPL-3.0-only", False),
        ("UNKNOWN", False),
        ("MITx", False),
    ],
)
def test_a_licence_is_allowed_whole_or_named(licence, passes):
    lines = supply_chain.unjudged([{"Name": "x", "Version": "1", "License": licence}], JUDGED)
    assert lines == ([] if passes else [f"x 1: {licence}"])
    assert supply_chain.unjudged([{"Name": "A_B", "Version": "1", "License": licence}], JUDGED) == []


def test_every_judgement_concerns_a_package_of_the_lock():
    judged = supply_chain.tomllib.loads(supply_chain.JUDGED.read_text(encoding="utf-8"))
    assert set(judged["licences"]["packages"]) <= supply_chain.locked().keys()
    assert all(judgement["reason"] for judgement in judged["findings"].values())


def test_the_bill_holds_the_lock_alone():
    bill = {
        "metadata": {"component": {"bom-ref": "root", "name": "kmed-bench"}},
        "components": [{"bom-ref": "1", "name": "PyYAML"}, {"bom-ref": "2", "name": "pytest"}],
        "dependencies": [{"ref": "root", "dependsOn": ["1", "2"]}, {"ref": "2", "dependsOn": ["1"]}, {"ref": "1"}],
    }
    kept = supply_chain.only_locked(bill, ["pyyaml"])
    assert kept["components"] == [{"bom-ref": "1", "name": "PyYAML"}]
    assert kept["dependencies"] == [{"ref": "root", "dependsOn": ["1"]}, {"ref": "1", "dependsOn": []}]
