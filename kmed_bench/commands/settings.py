"""`settings`: what each setting means, its type, default and profile values, and what it decides."""

import argparse
import shutil
import sys

from kmed_bench.commands.options import Commands
from kmed_bench.config import PROFILES
from kmed_bench.config.describe import describe_group, describe_settings, profile_values, setting_keys, settings_text
from kmed_bench.core.errors import KmedError

_TABLE_COLUMNS = 110  # narrower terminals get plain text
_PAGE = """# Settings

`make docs-settings` writes this page from `kmed_bench/config/`; `kmed-bench settings` shows the same in a terminal. A
setting can be given as `--group.field VALUE` to the commands that read it, as `-P group.field=VALUE` to `mlflow run`,
and in a YAML file to `--profile`. Lists are separated by commas. Order: defaults, profile, command line.

*Decides* names what changes with a setting: `data` (the manifest and the split), `benchmark` (which trainings it
consists of, and on what they are measured), `training` (weights), `decoding` (transcripts), `scoring` (figures),
`search` (trials of a study) or `curve` (subsets of a learning curve). What makes two runs the same is derived from it.
A setting that decides nothing may change when a run is resumed.
"""


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    settings = commands.add(
        "settings", _settings, "List settings: meaning, type, default, profile values, what they decide."
    )
    settings.add_argument("group", nargs="?", help="a group, such as train, or one setting, such as train.lr (all)")
    settings.add_argument(
        "--profile", metavar="NAME", help=f"show only this one's values: {', '.join(PROFILES)}, a file"
    )
    settings.add_argument("--markdown", action="store_true", help="print docs/settings.md")


def _settings(args: argparse.Namespace) -> int:
    keys = [key for key in setting_keys() if args.group in (None, key, key.partition(".")[0])]
    if not keys:
        groups = ", ".join(dict.fromkeys(key.partition(".")[0] for key in setting_keys()))
        raise KmedError(f"{args.group!r} is neither a setting nor a group of settings; the groups are {groups}.")
    profiles = [args.profile] if args.profile else list(PROFILES)
    width = shutil.get_terminal_size().columns
    if args.markdown:
        print(settings_page(), end="")
    elif sys.stdout.isatty() and width >= _TABLE_COLUMNS:
        _print_table(keys, profiles)
    else:
        print(settings_text({key: key for key in keys}, profiles, max(40, width - 2)))
    return 0


def settings_page() -> str:
    """Return docs/settings.md."""
    lines, others, group = [_PAGE], profile_values(PROFILES), ""
    for key, setting in describe_settings().items():
        if group != (group := key.partition(".")[0]):
            head = "| Setting | Meaning | Type | Default | Profiles | Decides |\n|---|---|---|---|---|---|"
            lines.append(f"\n## {group}\n\n{describe_group(group)}\n\n{head}")
        differing = "; ".join(f"{name}: {value}" for name, value in others[key].items())
        cells = (f"`{key}`", setting.meaning, setting.kind, f"`{setting.default}`", differing, setting.decides)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def _print_table(keys: list[str], profiles: list[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    others = profile_values(profiles)
    table = Table(box=box.SIMPLE_HEAD, show_lines=False, pad_edge=False)
    table.add_column("Setting", no_wrap=True)
    table.add_column("Meaning", ratio=5, overflow="fold")
    for name in ("Type", "Default", "Profiles", "Decides"):
        table.add_column(name, ratio=2 if name == "Default" else None, overflow="fold")
    for key in keys:
        one = describe_settings()[key]
        differing = "\n".join(f"{name}: {value}" for name, value in others[key].items())
        table.add_row(key, one.meaning, one.kind, one.default, differing, one.decides)
    Console().print(table)
