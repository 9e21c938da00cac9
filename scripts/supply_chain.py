"""What the locked environment is made of: known weaknesses, licences, and a bill of materials.

Usage: python scripts/supply_chain.py audit | licences | sbom OUT, in an environment with pip-audit, pip-licenses and
cyclonedx-bom (`make audit` makes it); `--python` names the environment that is looked at. What a person has judged
stands in scripts/supply_chain.toml. The exit status is 1 for something that nobody has judged, 2 where the advisory
service is out of reach.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
JUDGED = ROOT / "scripts" / "supply_chain.toml"
PAGE = ROOT / "docs" / "licences.md"
OWN = "kmed-bench"


def normal(name: str) -> str:
    """Return a package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """Return the versions of the lock by package, without what it has for other systems alone."""
    pins = re.findall(r"^([\w.-]+)==([^\s;\\]+)(?: ; ([^\\\n]+))?", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    return {normal(name): version for name, version, when in pins if not when or Marker(when.strip()).evaluate()}


def unexplained(audit: Mapping[str, Any], explained: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a line for each advisory of pip-audit's JSON that nobody has judged, known by its id or by an alias."""
    lines = []
    for package in audit["dependencies"]:
        for found in package.get("vulns", []):
            ids = {found["id"], *found.get("aliases", [])}
            if not ids & explained.keys():
                remedy = ", ".join(found.get("fix_versions", [])) or "no release"
                lines.append(f"{package['name']} {package['version']}: {found['id']}, mended in {remedy}")
    return lines


def unjudged(packages: Iterable[Mapping[str, str]], judged: Mapping[str, Any]) -> list[str]:
    """Return a line for each package whose licence is neither allowed nor judged by hand.

    A licence expression is allowed if all of its parts are (``AND``), or one is (``OR``).
    """
    allowed, lines = set(judged["allowed"]), list[str]()
    for package in packages:
        wanted = [part.split(" OR ") for part in re.split(r" AND |; ", package["License"])]
        if normal(package["Name"]) in judged["packages"]:
            continue
        if not all(any({name.strip(), name.strip(" ()")} & allowed for name in either) for either in wanted):
            lines.append(f"{package['Name']} {package['Version']}: {package['License'].splitlines()[0]}")
    return lines


def table(packages: Iterable[Mapping[str, str]], judged: Mapping[str, Any]) -> str:
    """Return the page of licences as Markdown."""
    rows = []
    for package in sorted(packages, key=lambda package: normal(package["Name"])):
        reason = judged["packages"].get(normal(package["Name"]), "")
        licence = package["License"].splitlines()[0] if "\n" not in package["License"] else "see the reason"
        rows.append(f"| {normal(package['Name'])} | {licence} | {reason} |")
    head = [
        "# Licences of what is installed",
        "",
        "Written by `make licences` from the locked environment on Linux, and checked in CI: a licence that is neither",
        "permissive nor judged by hand (`scripts/supply_chain.toml`) fails there. Versions and hashes are in",
        "`requirements.lock`, and in the bill of materials that `make dist` builds beside the wheel.",
        "",
        "| package | licence, as its metadata say | why it is in order, where that is not plain |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this environment without a shell and return what it said."""
    beside = Path(sys.executable).parent
    return subprocess.run([str(beside / command[0]), *command[1:]], capture_output=True, text=True, check=False)


def audit(judged: Mapping[str, Any]) -> int:
    """Ask the advisory service about every package of the lock."""
    done = run(
        "pip-audit", "--disable-pip", "--require-hashes", "-r", str(LOCK), "-f", "json", "--progress-spinner=off"
    )
    if not done.stdout.strip():
        print(f"pip-audit did not answer; is a network there?\n{done.stderr.strip()[-500:]}", file=sys.stderr)
        return 2
    found = json.loads(done.stdout)
    skipped = [package for package in found["dependencies"] if "skip_reason" in package]
    asked = len(found["dependencies"]) - len(skipped)
    if not asked:
        print(f"the advisory service knows none of {len(skipped)} packages: it is out of reach", file=sys.stderr)
        return 2
    lines = unexplained(found, judged["findings"])
    print(f"{asked} packages audited, {len(skipped)} unknown to the service, {len(lines)} findings without explanation")
    print("".join(f"  {line}\n" for line in lines), end="")
    return int(bool(lines))


def licences(judged: Mapping[str, Any], python: str, *, write: bool) -> int:
    """Check the licences of the locked packages that are installed; write the page or compare it with them."""
    done = run("pip-licenses", "--python", python, "--format=json", "--from=mixed")
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return 1
    pins = locked()
    packages = [package for package in json.loads(done.stdout) if normal(package["Name"]) in pins]
    lines = unjudged(packages, judged["licences"])
    page = table(packages, judged["licences"])
    if write:
        PAGE.write_text(page, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page:
        lines.append("docs/licences.md differs from what is installed; update it with `make licences`")
    print(f"{len(packages)} packages of {len(pins)} locked ones are installed, {len(lines)} faults")
    print("".join(f"  {line}\n" for line in lines), end="")
    return int(bool(lines))


def only_locked(bill: dict[str, Any], pins: Iterable[str]) -> dict[str, Any]:
    """Return a bill of materials without what is installed beside the lock, such as test tools."""
    wanted = {normal(name) for name in pins}
    kept = [component for component in bill["components"] if normal(component["name"]) in wanted]
    refs = {component["bom-ref"] for component in kept} | {bill["metadata"]["component"]["bom-ref"]}
    links = [
        {**link, "dependsOn": [ref for ref in link.get("dependsOn", []) if ref in refs]}
        for link in bill["dependencies"]
        if link["ref"] in refs
    ]
    return {**bill, "components": kept, "dependencies": links}


def sbom(python: str, out: Path) -> int:
    """Write a CycloneDX bill of materials of the locked packages that an environment holds."""
    out.parent.mkdir(parents=True, exist_ok=True)
    given = ("--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible", "-o", str(out))
    done = run("cyclonedx-py", "environment", python, *given)
    if done.returncode:
        print(done.stderr[-500:], file=sys.stderr)
        return done.returncode
    bill = only_locked(json.loads(out.read_text(encoding="utf-8")), locked())
    out.write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{out}: CycloneDX {bill['specVersion']}, {len(bill['components'])} components")
    return 0


def main() -> int:
    """Run what the command line asks for and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--python", default=sys.executable, help="the interpreter whose packages are looked at")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("audit", help="known weaknesses of what is locked")
    commands.add_parser("licences", help="licences of what is installed").add_argument("--write", action="store_true")
    commands.add_parser("sbom", help="a bill of materials").add_argument("out", type=Path)
    args = parser.parse_args()
    judged = tomllib.loads(JUDGED.read_text(encoding="utf-8"))
    if args.command == "audit":
        return audit(judged)
    if args.command == "licences":
        return licences(judged, args.python, write=args.write)
    return sbom(args.python, args.out)


if __name__ == "__main__":
    sys.exit(main())
