"""`run --plan`: what a benchmark would do, how long it would take here and what disk it needs; nothing stays."""

import itertools
import time
from collections.abc import Mapping
from pathlib import Path

from kmed_bench.asr.model.device import describe_machine, pick_device
from kmed_bench.asr.model.weights import Weights, WeightsError, find_weights
from kmed_bench.config import Config
from kmed_bench.core.addresses import without_password
from kmed_bench.core.callers_folder import started_by_mlflow_run
from kmed_bench.core.files import cache_folder
from kmed_bench.core.progress import rough_duration
from kmed_bench.core.quantities import gib
from kmed_bench.core.schema import SIZE_SHAPES
from kmed_bench.core.scratch import scratch_folder, scratch_for_libraries
from kmed_bench.corpus.splitting.split import Split
from kmed_bench.pipeline.continuation import Only
from kmed_bench.pipeline.estimates import Outlook, Stage, basis, disk_of, foresee, free_bytes
from kmed_bench.pipeline.leak_cells import with_left_out
from kmed_bench.pipeline.preparation import check_sign_key, check_source, demo_corpus, demo_folder, split_source
from kmed_bench.tracking.store import resolve_uri


def describe_run(config: Config, out: Path, *, only: Only = (), n_slots: int = 1) -> list[str]:
    """Return in lines what `run` would do, how long that would take on this machine, and what disk it needs.

    The corpus is read, and a demo corpus generated, into a scratch folder. No weights are fetched and no store is
    opened.

    Parameters
    ----------
    out : Path
        Folder for results.
    only : tuple of (str, int)
        Size and seed of the trainings that would run; empty: all.
    n_slots : int
        Trainings that would run at a time.

    Raises
    ------
    KmedError
        As `run` would before it trains, but for sizes without weights, which the lines name.
    """
    check_source(config)
    check_sign_key(config)
    planned = list(only or itertools.product(config.model.sizes, config.train.seeds))
    with scratch_for_libraries(), scratch_folder() as folder:
        found = _weights_at_hand(config, dict(planned), folder)
        started = time.perf_counter()
        split, n_bytes = _draw_split(config, out, folder)
        corpus = Stage("corpus, split", time.perf_counter() - started, n_bytes)
        chosen = [key for key in planned if key[0] in found]
        outlook = foresee(config, split, found, chosen, planned=True, n_slots=n_slots)
    missing = [key for key in planned if key[0] not in found]
    return [
        _describe_work(config, split, planned),
        f"Results would go to {out}, runs to {without_password(resolve_uri(config.tracking.uri))}.",
        *(_table(corpus, outlook, n_slots) if outlook else [_UNKNOWN]),
        *_missing_lines(missing, outlook),
        *_disk_lines(out, corpus, outlook),
        *([_basis_line(config)] if outlook else []),
        "Nothing was kept: no split, no features, and no run"
        + (" but the one that MLflow made for this call." if started_by_mlflow_run() else "."),
    ]


def _basis_line(config: Config) -> str:
    return f"Estimated {basis(config)}, on {describe_machine(pick_device())}, as busy as it is now."


_UNKNOWN = "The time is not known: it takes weights at hand and two batches of training clips to measure it."


def _weights_at_hand(config: Config, sizes: Mapping[str, int], folder: Path) -> dict[str, Weights]:
    found = {}
    for size in sizes:
        try:
            found[size] = find_weights(size, config.model.weights, download=False, converted=folder)
        except WeightsError:
            continue
    return found


def _draw_split(config: Config, out: Path, folder: Path) -> tuple[Split, int]:
    """Return the split that `run` would draw, and the bytes that it and a generated corpus would take."""
    there = config.data.source is not None or demo_folder(config, out).is_dir()
    source = Path(config.data.source) if config.data.source else demo_corpus(config, out if there else folder)
    split = with_left_out(split_source(source, folder, config), folder / "split", config)
    made = [folder / "manifest", folder / "split", *([] if there else [source])]
    return split, sum(path.stat().st_size for one in made for path in one.rglob("*") if path.is_file())


def _describe_work(config: Config, split: Split, planned: list[tuple[str, int]]) -> str:
    counts = "/".join(str(len(split.parts[part])) for part in ("train", "valid", "test"))
    hours = sum(float(rows["duration_s"].sum()) for rows in split.parts.values()) / 3600
    named = ", ".join(f"{size}:{seed}" for size, seed in planned)
    return (
        f"Plan of profile {config.profile}: {len(planned)} training{'s' * (len(planned) > 1)} ({named}) of "
        f"{config.train.epochs} epochs, on {counts} utterances of train/valid/test, {hours:.1f} h of audio; each "
        "decodes the valid part after every epoch and the test part at the end."
    )


def _table(corpus: Stage, outlook: Outlook, n_slots: int) -> list[str]:
    stages = [corpus, *outlook.stages()]
    name = "in all" if n_slots == 1 else f"in all, {n_slots} slots"
    total = Stage(name, corpus.duration_s + outlook.total_s, sum(stage.n_bytes for stage in stages))
    return [
        f"  {stage.name:<24} {rough_duration(stage.duration_s):>8} {gib(stage.n_bytes) if stage.n_bytes else '':>12}"
        for stage in (*stages, total)
    ]


def _missing_lines(missing: list[tuple[str, int]], outlook: Outlook | None) -> list[str]:
    """Return a line for each size without weights, with the time of one that was measured times the ratio of shapes."""
    lines = []
    for size in dict(missing):
        n_seeds = sum(one == size for one, _ in missing)
        line = f"Not in this: {size}, of which no weights are at hand; `run` tries to fetch them"
        if outlook is not None:
            nearest = min(outlook.sizes, key=lambda one: abs(_work(one) - _work(size)))
            taken = outlook.size_s(nearest, n_seeds) * _work(size) / _work(nearest)
            line += f". By its shape it would add about {rough_duration(taken)} ({nearest}'s time by layers × width²)"
        lines.append(line + ".")
    return lines


def _work(size: str) -> float:
    """Return layers times width squared, to which the work of a forward pass is roughly proportional."""
    width, _, layers = SIZE_SHAPES[size]
    return float(layers * width**2)


def _disk_lines(out: Path, corpus: Stage, outlook: Outlook | None) -> list[str]:
    free, free_cache = free_bytes(out), free_bytes(cache_folder())
    places = f"{gib(free)} are free for {out}, {gib(free_cache)} for the cache {cache_folder()}"
    if outlook is None:
        return [f"Disk: {places}."]
    kept = corpus.n_bytes + outlook.n_bytes
    needed = kept + outlook.state_bytes
    cached = sum(stage.n_bytes for stage in outlook.stages() if stage.cached)
    if disk_of(out) == disk_of(cache_folder()):
        fits = {"name another --out": needed < free}
    else:
        fits = {"name another --out": needed - cached < free, "set KMED_CACHE to a larger disk": cached < free_cache}
    short = [way for way, enough in fits.items() if not enough]
    warning = f" It does not fit: make room, or {' and '.join(short)}." if short else ""
    return [
        f"Disk: {gib(kept)} stay used, and {gib(outlook.state_bytes)} more while a training runs; {places}.{warning}"
    ]
