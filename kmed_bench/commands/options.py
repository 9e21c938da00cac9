"""What the commands share: their parser, with an option for each setting that a command reads."""

import argparse
import dataclasses
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from kmed_bench.config import PROFILES, Config, load_config
from kmed_bench.config.describe import setting_keys, settings_text
from kmed_bench.config.load import explain_unknown
from kmed_bench.core.console import LEVELS
from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import SIZES

# The headline settings have short names, in MLproject and here; every other is `--group.field VALUE`.
ALIASES = {
    "source": "data.source",
    "sizes": "model.sizes",
    "weights": "model.weights",
    "seeds": "train.seeds",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "lr": "train.lr",
    "max_len": "train.max_len",
    "audio_context": "train.audio_context",
    "lang": "report.lang",
}
# MLproject passes every declared parameter; this word means "what the profile says".
AS_PROFILE = "profile"
# The profile of a command that is given none, but for `run`, which chooses one by the source.
PROFILE = "sound"

_SETTING = re.compile(r"`kmed-bench [^`]*`|--(?P<key>[a-z_]+\.[a-z_]+)(?: (?P<value>[\w,.+-]*\w))?")

Command = Callable[[argparse.Namespace], int]


class CommandParser(argparse.ArgumentParser):
    """Parser of one command. Faulty arguments raise KmedError."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)
        self.flags: dict[str, list[str]] = {}
        self._shown_profile = PROFILE

    def add_settings(self, reads: Iterable[str], short: Mapping[str, str], default: str, given: str | None) -> None:
        """Add ``--profile`` and an option for each setting that the command reads.

        Parameters
        ----------
        default, given : str
            The command's default profile, and the one whose values `--help` shows if it was asked for.
        """
        text = f"{', '.join(PROFILES)}, or a YAML file ({default})"
        self.add_argument("--profile", default=default, metavar="NAME", help=text)
        self._shown_profile = given or (default if default in PROFILES else PROFILE)
        names, wanted = {key: f"--{name}" for name, key in {**ALIASES, **short}.items()}, set(reads)
        for key in setting_keys():
            if wanted & {key, key.partition(".")[0]}:
                self.flags[key] = [f"--{key}"] + ([names[key]] if key in names else [])
                self.add_argument(*self.flags[key], dest=key, default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        """Raise KmedError with argparse's message."""
        raise KmedError(f"{self.prog.split()[-1]}: {message}; see `{self.prog} --help`.")

    def format_help(self) -> str:
        """Return argparse's help and, below it, the command's settings."""
        if not self.flags:
            return super().format_help()
        labels = {key: ", ".join(flags) for key, flags in self.flags.items()}
        width = max(40, shutil.get_terminal_size().columns - 2)
        text = settings_text(labels, [self._shown_profile], width, marks=False)
        return f"{super().format_help()}\nsettings that it reads:\n\n{text}\n"


@dataclasses.dataclass(frozen=True)
class Commands:
    """The commands of the command line.

    Attributes
    ----------
    profile : str or None
        What ``--profile`` was given, for the values that `--help` shows.
    """

    subparsers: "argparse._SubParsersAction[CommandParser]"
    profile: str | None = None

    def add(
        self,
        name: str,
        command: Command,
        text: str,
        *,
        reads: Iterable[str] = (),
        short: Mapping[str, str] | None = None,
        default: str = PROFILE,
    ) -> CommandParser:
        """Return the parser of a new command, whose function gets the arguments and returns the exit status.

        If that is not 0, the function may say why in ``unfinished`` of the arguments, for the run of `mlflow run`.

        Parameters
        ----------
        reads : iterable of str
            Groups and dotted keys of the settings that the command reads; it accepts no others.
        short : mapping, optional
            Short names of settings in this command to their dotted keys; they replace those of ``ALIASES``.
        default : str
            Of ``--profile``, which commands that read settings have.
        """
        parser: CommandParser = self.subparsers.add_parser(name, help=text, description=text)
        parser.add_argument("--log-level", choices=LEVELS, default="info", help="messages on standard error (info)")
        if reads:
            parser.add_settings(reads, short or {}, default, self.profile)
        parser.set_defaults(command=command, flags=parser.flags, unfinished="")
        return parser


TRAINING = ("data.transcript_side", "model.sizes", "model.weights", "features", "train", "eval")
"""What every command reads that trains on a split."""


ALONE = ("--slots", "1", "--threads", "auto")
"""What a process is given that others work beside."""
_MAX_THREADS = 1024


def add_switch(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    """Add a switch that also takes true or false, which is how MLproject gives it."""
    words = ("true", "false")
    parser.add_argument(name, nargs="?", type=str.lower, const="true", default="false", choices=words, help=text)


def add_slots(parser: argparse.ArgumentParser) -> None:
    """Add what decides how many processes of this machine share a command's work."""
    parser.add_argument(
        "--slots",
        default="auto",
        metavar="N",
        help="processes that work at the same time: auto, which is one per GPU, or a number (auto)",
    )
    parser.add_argument(
        "--threads",
        default="auto",
        metavar="N",
        help="threads of each: auto, which shares the cores, or a number (auto)",
    )


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add where a command's work runs."""
    parser.add_argument(
        "--launcher",
        choices=("here", "slurm"),
        default="here",
        help="where the work runs: here, or in jobs of Slurm, which are submitted and not waited for (here)",
    )


def add_launcher_with_plan(parser: argparse.ArgumentParser) -> None:
    """Add where a command's work runs, and a switch that only prints the jobs."""
    add_launcher(parser)
    add_switch(parser, "--plan", "with --launcher slurm: print the scripts of its jobs, and stop")


def on_slurm(args: argparse.Namespace, *, plans_here: bool = False) -> bool:
    """Return whether a command is to be submitted to Slurm.

    Parameters
    ----------
    plans_here : bool
        Whether ``--plan`` says something here as well.

    Raises
    ------
    KmedError
        When an option is given that means something elsewhere only.
    """
    if args.launcher != "slurm":
        if args.plan == "true" and not plans_here:
            raise KmedError("--plan prints the scripts of Slurm's jobs; add --launcher slurm, or leave --plan out.")
        return False
    for option, value in (("--slots", args.slots), ("--threads", args.threads)):
        if value not in (ALONE[1], "auto"):
            raise KmedError(
                f"{option} {value} is for this machine, and a job of Slurm is one process with slurm.cpus threads; "
                f"leave {option} out, and set slurm.workers and slurm.cpus."
            )
    return True


def submit_command(
    args: argparse.Namespace,
    config: Config,
    tasks: Sequence[Sequence[str]],
    last: Sequence[str],
    addresses: Mapping[str, str | None],
) -> int:
    """Submit a command as an array of jobs and one that follows, or print their scripts; return the exit status.

    Parameters
    ----------
    tasks, last : sequence
        The words of each job's command.
    addresses : mapping
        The settings that may hold a store's address, and their values.
    """
    from kmed_bench.pipeline.launch.slurm import describe_scripts, describe_submission, new_folder, stages_of, submit

    stages, folder = stages_of(args.command_name, len(tasks), prepared=False), new_folder(args.out)
    submission = describe_submission(args.command_name, tasks, config.slurm, addresses=addresses, last=last)
    if args.plan == "true":
        print("\n".join(describe_scripts(stages, config.slurm, folder)))
        return 0
    print("\n".join(submit(submission, stages, config.slurm, folder).lines()))
    return 0


def thread_count(text: str) -> int | None:
    """Return the number that ``--threads`` gives; None for ``auto``.

    Raises
    ------
    KmedError
        For anything else.
    """
    if text == "auto":
        return None
    if not (text.isdecimal() and 1 <= int(text) <= _MAX_THREADS):
        raise KmedError(f"--threads is {text!r}; give auto, or a number from 1 to {_MAX_THREADS}.")
    return int(text)


def one_size(args: argparse.Namespace, config: Config, what: str) -> str:
    """Return the size that ``--size`` names.

    Raises
    ------
    KmedError
        Unless it names one.
    """
    size = args.overrides.get("model.sizes")
    if size is None or len(config.model.sizes) != 1:
        raise KmedError(f"{what} takes one size, and --size is {size}; name one of {', '.join(SIZES)}.")
    return config.model.sizes[0]


def take_overrides(args: argparse.Namespace, rest: Sequence[str]) -> dict[str, str]:
    """Return the settings among a command's arguments by dotted key, without those left to the profile.

    Parameters
    ----------
    rest : sequence of str
        The words that the parser did not understand.

    Raises
    ------
    KmedError
        When there are any: a renamed or unknown setting, one that the command does not read, or no setting at all.
    """
    for word in sorted(rest, key=lambda word: not word.startswith("--")):
        name = word.removeprefix("--").partition("=")[0]
        key = ALIASES.get(name, name)
        if key in args.flags:
            raise KmedError(f"Argument {word!r} is {' or '.join(args.flags[key])} in `{args.command_name}`.")
        if word.startswith("--") and key in setting_keys():
            raise KmedError(
                f"`{args.command_name}` does not read the setting {key}; `kmed-bench {args.command_name} --help` lists "
                "those that it reads."
            )
        if word.startswith("--") and "." in name:
            raise KmedError(explain_unknown(name))
        raise KmedError(f"Argument {word!r} is not understood; see `kmed-bench {args.command_name} --help`.")
    return {key: value for key, value in vars(args).items() if "." in key and value != AS_PROFILE}


def spell_settings(message: str, flags: Mapping[str, Sequence[str]], *, project: bool) -> str:
    """Return a message whose settings, written ``--group.field VALUE``, stand as they are typed in the command itself.

    What is quoted as another command's, such as `kmed-bench ingest --data.decode true`, stays.

    Parameters
    ----------
    flags : mapping
        Dotted keys of the settings that the command takes to their flags.
    project : bool
        Whether `mlflow run` started the command, which takes ``-P group.field=VALUE``.
    """

    def spell(found: re.Match[str]) -> str:
        key, value = found["key"], found["value"]
        if key is None or key not in flags:
            return found[0]
        if project:
            return f"-P {key}={value or '…'}"
        return f"{flags[key][-1]} {value}" if value else flags[key][-1]

    return _SETTING.sub(spell, message)


def resolve(args: argparse.Namespace) -> Config:
    """Return the settings of a command: its profile, and the settings given on the command line."""
    return load_config(args.profile, args.overrides)
