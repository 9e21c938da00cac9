"""What a benchmark used, as BibTeX."""

from importlib import resources

from kmed_bench.report.paper.wording import Facts

NEEDS = {
    "loshchilov2019adamw": "lr",
    "holm1979": "n_comparisons",
    "cameron2011multiway": "few_events",
    "clopper1934": "few_events",
    "aihub208": "aihub aihub_layout",
    "akiba2019optuna": "study",
    "hu2022lora": "lora_rank",
    "park2019specaugment": "spec_augment",
    "pedregosa2011scikit": "published_draw",
}
"""Entry to the facts of which one shows that it was used; the others always were."""


def references(facts: Facts) -> str:
    """Return the BibTeX entries of what the benchmark used; a field that is not certain is left out."""
    text = (resources.files("kmed_bench.report.paper") / "references.bib").read_text(encoding="utf-8")
    shown = {*facts, "lr"}
    used = [entry for entry in text.strip().split("\n\n") if shown & {*NEEDS.get(_key(entry), "lr").split()}]
    return "\n\n".join(used) + "\n"


def _key(entry: str) -> str:
    return entry.partition("{")[2].partition(",")[0]
