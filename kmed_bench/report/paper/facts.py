"""What a record says about how its figures came about, as text by name."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from kmed_bench.core.language import Language, translate_stored, use_language
from kmed_bench.core.records import BenchRecord
from kmed_bench.core.schema import AIHUB_RELEASES, PARTS
from kmed_bench.report.paper.wording import Facts, Say, count, hours, listed, small
from kmed_bench.report.seal_tables import count_plans
from kmed_bench.report.tables import FINISHED, ordered_trains, scored_with
from kmed_bench.scoring.compare import TEST
from kmed_bench.scoring.intervals import FEW_EVENTS, METHOD, MIN_SPEAKERS

AIHUB_FOLDER = "의료진_및_환자_음성"
"""In the name of the folder that a download of AI Hub data set 208 is."""
REASONS = {
    "audio_missing": Say("recording missing", "음성 파일 없음"),
    "audio_unreadable": Say("recording unreadable", "음성 파일 손상"),
    "audio_truncated": Say("recording cut short", "음성 잘림"),
    "audio_too_long": Say("recording too long", "음성 길이 초과"),
    "audio_too_short": Say("recording too short", "음성 길이 미달"),
    "label_unreadable": Say("label unreadable", "라벨 손상"),
    "label_incomplete": Say("label incomplete", "라벨 항목 누락"),
    "transcript_empty": Say("transcript empty", "빈 전사"),
    "transcript_masked": Say("transcript masked", "비식별화된 전사"),
    "quality_excluded": Say("quality mark excluded", "품질 표시 제외"),
    "duplicate_utterance": Say("duplicate utterance", "중복 발화"),
    "label_too_long": Say("label too long", "라벨 길이 초과"),
}
WARNINGS = {
    "archive_piece_missing": Say("archive piece missing", "압축 파일 조각 누락"),
    "archive_unreadable": Say("archive unreadable", "압축 파일 손상"),
    "audio_without_label": Say("audio without label", "라벨 없는 음성"),
    "clipped_audio": Say("clipped audio", "클리핑된 음성"),
    "duplicate_audio": Say("duplicate audio", "중복된 음성 파일"),
    "folder_unreadable": Say("folder unreadable", "읽을 수 없는 폴더"),
    "format_differs": Say("format differs", "음성 형식 불일치"),
    "length_differs": Say("length differs", "음성 길이 불일치"),
    "metadata_differs": Say("metadata differs", "화자 정보 불일치"),
    "opposite_channels": Say("opposite channels", "위상이 반대인 채널"),
    "rate_differs": Say("rate differs", "표본화 주파수 불일치"),
    "same_recording": Say("same recording", "동일한 녹음"),
    "silent_audio": Say("silent audio", "무음"),
}
FIELD_WORDS = {
    "dialect": Say("dialect", "방언"),
    "gender": Say("gender", "성별"),
    "age": Say("age", "연령"),
    "role": Say("role", "역할"),
}
GROUP_WORDS = {
    "Female": Say("female", "여성"),
    "Male": Say("male", "남성"),
    "60 and over": Say("60 and over", "60세 이상"),
    "over70": Say("over70", "70세 이상"),
}
_ROLES = {"patient": Say("patients", "환자"), "nurse": Say("nurses", "간호사"), "doctor": Say("doctors", "의사")}
ROLE_WORDS = {name: Say(name, say.ko) for name, say in _ROLES.items()}
_SIDES = {"pronunciation": Say("pronunciation", "발음 전사"), "spelling": Say("spelling", "철자 전사")}
_SHOWN_DIGITS = 12


def shared_setting(record: BenchRecord, name: str) -> str | None:
    """Return a setting that all train runs agree on, or else the benchmark's; None where it is unknown or off."""
    values = {run.params[name] for run in record.trains if name in run.params}
    if not values and name in record.params:
        values = {record.params[name]}
    value = values.pop() if len(values) == 1 else None
    return None if value is None or value.lower() in ("none", "") else value


def shared_tag(record: BenchRecord, name: str) -> str | None:
    """Return what the train runs, or else the benchmark, have as a tag; None where it is unknown."""
    values = sorted({run.tags[name] for run in record.trains if name in run.tags})
    return ", ".join(values) or record.tags.get(name)


def collect_facts(record: BenchRecord) -> Facts:
    """Return every fact of a record that the methods name."""
    parts = (_corpus, _rejects, _split, _models, _training, _decoding, _scoring, _seal)
    return {name: fact for part in parts for name, fact in part(record)}


def _say_list(names: list[str], words: Mapping[str, Say]) -> Say:
    def told(language: Language) -> str:
        return listed((words[name].words(language) if name in words else name for name in names), language)

    return Say(told("en"), told("ko"))


_Named = Iterator[tuple[str, str | Say]]


def _corpus(record: BenchRecord) -> _Named:
    source = shared_setting(record, "data.source")
    releases = set(record.quality.get("by", {}).get("release", {}))
    named = sorted(releases - AIHUB_RELEASES)
    if record.synthetic:
        yield "synthetic", ""
    elif source is not None and AIHUB_FOLDER in source:
        yield "aihub", ""
    elif releases and not named:
        yield "aihub_layout", ""  # that of data set 208, which a manifest's folder need not name
    elif source is not None:
        yield "source", ", ".join(named) or source
    if (roles := shared_setting(record, "data.roles")) and not record.synthetic:
        yield "roles", _say_list(roles.split(","), _ROLES)
    for name in ("data.min_duration_s", "data.max_duration_s"):
        if (value := shared_setting(record, name)) is not None:
            yield name.removeprefix("data."), f"{float(value):g}"


def _rejects(record: BenchRecord) -> _Named:
    quality = record.quality
    for name in ("labels", "usable", "speakers", "sentences"):
        if name in quality:
            yield f"corpus_{name}", count(quality[name])
    if "hours" in quality:
        yield "corpus_hours", hours(quality["hours"])
    rejected = {name: n for name, n in quality.get("rejected", {}).items() if n}
    if "rejected" in quality:
        yield "rejected", count(sum(rejected.values()))
    if rejected:
        names = {name: REASONS.get(name, Say(name, name)) for name in rejected}

        def told(language: Language) -> str:
            return ", ".join(f"{names[name].words(language)} {count(n)}" for name, n in rejected.items())

        yield "rejected_because", Say(told("en"), told("ko"))


def _split(record: BenchRecord) -> _Named:
    split = record.split
    for part in PARTS:
        described = {"utterances": split.get("counts", {}).get(part), **split.get("parts", {}).get(part, {})}
        for name, value in described.items():
            if value is not None:
                yield f"{part}_{name}", hours(value) if name == "hours" else count(value)
    leakage = split.get("leakage", {})
    if {"speakers", "sentences"} <= set(leakage):
        shared = [name for name in ("speakers", "sentences") if leakage[name]]
        yield {0: "disjoint", 2: "leak_both"}.get(len(shared), f"leak_{''.join(shared)}"), ""
        yield from ((f"shared_{name}", count(leakage[name])) for name in ("speakers", "sentences"))
    if str(split.get("method", "")).startswith("published"):
        yield "published_draw", ""
    if fields := shared_setting(record, "split.by"):
        yield "strata", _say_list(fields.split(","), FIELD_WORDS)
    if seed := shared_setting(record, "split.seed"):
        yield "split_seed", seed
    if deviation := split.get("max_share_deviation"):
        yield "deviation", f"{100 * deviation:.2f}"
    if discarded := split.get("discarded"):
        yield "discarded", count(discarded)
    if sha256 := split.get("sha256") or record.tags.get("kmed.split_sha256"):
        yield "split_sha256", str(sha256)[:_SHOWN_DIGITS]


def _models(record: BenchRecord) -> _Named:
    runs = [run for run in ordered_trains(record) if run.status == FINISHED]
    if not runs:
        return
    sizes = {run.size: run.metrics.get("speed/parameters") for run in runs}
    names = [size if n is None else f"{size} ({n / 1e6:.1f} M)" for size, n in sizes.items()]
    yield "sizes", Say(listed(names), listed(names, "ko"))
    weights = list(dict.fromkeys((run.size, run.tags.get("kmed.weights_sha256", "")[:_SHOWN_DIGITS]) for run in runs))
    if all(digits for _, digits in weights):
        yield "weights", ", ".join(f"{size} {digits}" for size, digits in weights)
    seeds = {size: tuple(run.seed for run in runs if run.size == size) for size in sizes}
    if len(set(seeds.values())) == 1:
        own = seeds[runs[0].size]
        yield "seeds" if len(own) > 1 else "seed", ", ".join(map(str, own))
        yield "n_seeds", count(len(own))


_SETTINGS = {
    "train.epochs": "epochs",
    "train.batch_size": "batch_size",
    "train.max_len": "max_len",
    "train.weight_decay": "weight_decay",
    "train.patience": "patience",
    "train.lora_rank": "lora_rank",
    "train.grad_clip": "grad_clip",
    "train.speed_factors": "speed_factors",
}
_SCHEDULES = {
    "constant": Say("constant", "고정"),
    "linear": Say("linearly decaying", "선형 감쇠"),
    "cosine": Say("cosine-decaying", "코사인 감쇠"),
}
_FLAGS = {"train.freeze_encoder": "frozen_encoder", "train.spec_augment": "spec_augment"}


def _training(record: BenchRecord) -> _Named:
    for name, key in _SETTINGS.items():
        if (value := shared_setting(record, name)) is not None:
            yield key, value
    if lr := shared_setting(record, "train.lr"):
        yield "lr", small(float(lr))
    if schedule := shared_setting(record, "train.schedule"):
        yield "schedule", _SCHEDULES.get(schedule, Say(schedule, schedule))
    if (warmup := shared_setting(record, "train.warmup_steps")) and warmup != "0":
        yield "warmup_steps", count(int(warmup))
    for name, key in _FLAGS.items():
        if (shared_setting(record, name) or "").lower() == "true":
            yield key, ""
    for name in ("train.audio_context", "eval.audio_context"):
        if context := shared_setting(record, name):
            yield f"{name.partition('.')[0]}_{context}", ""
    if precision := shared_tag(record, "kmed.train_precision"):
        yield "precision", precision
    if machine := shared_tag(record, "kmed.machine"):
        with use_language("ko"):
            yield "machine", Say(machine, translate_stored(machine))
    for name in ("software", "code_version"):
        if value := shared_tag(record, f"kmed.{name}"):
            yield name, value
    if "kmed.study" in record.tags:
        yield "study", record.tags["kmed.study"]


def _decoding(record: BenchRecord) -> _Named:
    if beams := shared_setting(record, "eval.beam_size"):
        yield ("greedy", "") if beams == "1" else ("beams", beams)
    if tokens := shared_setting(record, "eval.max_new_tokens"):
        yield "max_new_tokens", tokens
    if ngram := shared_setting(record, "eval.no_repeat_ngram_size"):
        yield "ngram", ngram


def _scoring(record: BenchRecord) -> _Named:
    if record.scores:
        yield "scored", ""
    versions = scored_with(record, "normaliser_version")
    if len(versions) == 1:
        yield "normaliser", versions[0]
    policies = scored_with(record, "transcript_policy")
    if len(policies) == 1:
        yield "policy", _SIDES.get(policies[0], Say(policies[0], policies[0]))
    intervals = [scores["interval"] for scores in record.scores.values() if "interval" in scores]
    methods = {str(entry.get("method")) for entry in intervals}
    levels = {float(entry["level"]) for entry in intervals if "level" in entry}
    if len(levels) == 1:
        yield "level", f"{100 * levels.pop():g}"
    if methods == {METHOD}:
        yield "few_events", count(FEW_EVENTS)
        yield "min_speakers", count(MIN_SPEAKERS)
    elif len(methods) == 1:
        yield "interval_method", methods.pop()
    yield from _tests(record)
    excluded = {n for scores in record.scores.values() for n in [sum(scores.get("n_excluded", {}).values())]}
    if len(excluded) == 1 and (n := excluded.pop()):
        yield "unscored", count(n)


def _tests(record: BenchRecord) -> _Named:
    compared = [cast(Mapping[str, Any], row) for row in record.comparisons]
    compared += [cast(Mapping[str, Any], verdict["cer"]) for verdict in record.verdicts.values()]
    tests = {row["test"] for row in compared if "test" in row}
    draws = {row["draws"] for row in compared if "draws" in row}
    if tests == {TEST} and len(draws) == 1:
        yield "draws", count(draws.pop())
    elif len(tests) == 1:
        yield "test", str(tests.pop())
    if record.comparisons:
        yield "n_comparisons", count(len(record.comparisons))
    if tested := [gap for gap in record.gaps if gap["p_holm"] is not None]:
        yield "n_gaps", count(len(tested))
    levels = {verdict["level"] for verdict in record.verdicts.values()}
    if len(levels) == 1:
        yield "alpha", f"{levels.pop():g}"


def _seal(record: BenchRecord) -> _Named:
    if record.openings:
        yield "openings", count(len(record.openings))
        yield "tuned_openings", count(sum(not opening.untouched for opening in record.openings))
        yield "plans", count(count_plans(record.openings))
    plans = {opening.plan_sha256 for opening in record.openings} - {""}
    plans = {record.tags["kmed.plan_sha256"]} if "kmed.plan_sha256" in record.tags else plans
    if len(plans) == 1:
        yield "plan_sha256", plans.pop()[:_SHOWN_DIGITS]
