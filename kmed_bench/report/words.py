"""Words of data that pages show: labels' fields and values, states of runs, names of rules, as files have them.

The catalogue has them by these marks; `translate_stored` finds them. A value that is not here is shown as it is.
"""

from kmed_bench.core.language import N_, pgettext
from kmed_bench.core.schema import RejectReason, WarningKind

FIELDS = (
    *(N_("dialect"), N_("gender"), N_("age"), N_("role"), N_("region"), N_("quality"), N_("release")),
    N_("code_switching"),
)
VALUES = (
    *(N_("Female"), N_("Male"), N_("female"), N_("male"), N_("patient"), N_("nurse"), N_("doctor")),
    *(N_("over70"), N_("N/A"), N_("none"), N_("hangul"), N_("latin"), N_("Good"), N_("Training"), N_("Validation")),
)
PARTS = (N_("train"), N_("valid"), N_("test"), N_("corpus"), N_("recordings"), N_("unknown speakers"))
STATES = (
    *(N_("FINISHED"), N_("FAILED"), N_("KILLED"), N_("RUNNING"), N_("SCHEDULED")),
    *(N_("complete"), N_("pruned"), N_("failed"), N_("lost"), N_("running"), N_("waiting")),
)
OUTCOMES = (N_("better"), N_("worse"), N_("no evidence"), N_("kept untouched"), N_("untouched"), N_("not shown"))
SYSTEMS = (
    *(N_("{size} untouched"), N_("{size} fine-tuned"), N_("{size}, seed {seed}"), N_("{size}, untouched")),
    N_("untouched {model}"),
    *(N_("{processor}, {n} thread"), N_("{processor}, {n} threads")),
)
RULES = (
    *(N_("pronunciation"), N_("spelling"), N_("disjoint"), N_("quotas"), N_("whole corpus, no split")),
    *(N_("published two-step draw on age"), N_("quotas, disjoint in {fields}"), N_("leaking {what}")),
    *(N_("speaker"), N_("sentence"), N_("speaker and sentence"), N_("yes"), N_("no"), N_("unknown")),
    N_("assumed deviations, not measured: give a pilot to kmed-bench power SPLIT --predictions A B"),
    N_("deviations as given"),
)
PROVENANCE = (
    *(N_("transcript policy"), N_("normaliser version"), N_("marks version"), N_("numbers version")),
    *(N_("terms version"), N_("variants version"), N_("code version"), N_("config hash"), N_("device")),
    *(N_("plan sealed at"), N_("plan sha256"), N_("plan late"), N_("plan replaced"), N_("software"), N_("machine")),
    *(N_("split label"), N_("series"), N_("only"), N_("synthetic"), N_("train precision"), N_("weights origin")),
    *(N_("weights sha256"), N_("source kind"), N_("verdict"), N_("verdict text"), N_("recommended"), N_("epochs")),
    *(N_("continued by code version"), N_("failure"), N_("interrupted"), N_("ended"), N_("mlflow run"), N_("model")),
    *(N_("checkpoint sha256"), N_("not compared"), N_("true"), N_("false"), N_("bench name")),
    *(N_("processes"), N_("upstream run ids"), N_("bundled run"), N_("path"), N_("wheel"), N_("cache"), N_("download")),
)

REJECTS: dict[RejectReason, str] = {
    "audio_missing": N_("there is no audio for it"),
    "audio_unreadable": N_("the audio can't be read"),
    "audio_truncated": N_("the audio is shorter than its header or its label states"),
    "audio_too_long": N_("longer than data.max_duration_s"),
    "audio_too_short": N_("shorter than data.min_duration_s"),
    "label_unreadable": N_("the label can't be read"),
    "label_incomplete": N_("the label lacks a field"),
    "transcript_empty": N_("the transcript is empty or holds only marks"),
    "transcript_masked": N_("a part of the transcript is withheld"),
    "quality_excluded": N_("the label's quality is not in data.accepted_quality"),
    "duplicate_utterance": N_("the utterance is there twice; the first one is kept"),
}
"""What the reasons mean that `ingest` and `import-corpus` give."""
DOUBTS: dict[WarningKind, str] = {
    "archive_piece_missing": N_("a piece of an archive is missing"),
    "archive_unreadable": N_("an archive can't be read"),
    "audio_without_label": N_("audio that no label describes"),
    "clipped_audio": N_("too many samples are at full scale"),
    "duplicate_audio": N_("several audio files have the utterance's name; one is used"),
    "folder_unreadable": N_("a folder can't be read"),
    "format_differs": N_("channels or bits are not those that the label states"),
    "length_differs": N_("the audio is longer than the label states"),
    "metadata_differs": N_("label and file name state different things of the speaker"),
    "opposite_channels": N_("the channels cancel each other when they are mixed"),
    "rate_differs": N_("the sampling rate is not the one that the label states"),
    "same_recording": N_("another utterance has equal samples"),
    "silent_audio": N_("no sample is louder than data.silence_level"),
}


def category_word(category: str) -> str:
    """Return a category of medical terms as pages show it; ``test`` is here no part of a split."""
    words = {
        "symptom": pgettext("category", "symptom"),
        "drug": pgettext("category", "drug"),
        "body": pgettext("category", "body"),
        "department": pgettext("category", "department"),
        "test": pgettext("category", "test"),
        "unit": pgettext("category", "unit"),
    }
    return words.get(category, category)
