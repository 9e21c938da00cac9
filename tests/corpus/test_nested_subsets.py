"""Nested subsets of speakers: each in the next, near their fraction, with the part's groups, the same on every call."""

import itertools

import numpy as np
import pandas as pd
import pytest

from kmed_bench.core.errors import KmedError
from kmed_bench.corpus.splitting.nested import draw_subsets


def make_part(n_speakers: int, noise: int = 0) -> pd.DataFrame:
    """Speakers with 3 to 12 clips; a quarter are of one dialect, and women and men alternate."""
    generator, rows = np.random.default_rng(noise), []
    for speaker in range(n_speakers):
        shared = {"speaker_id": f"s{speaker:03d}", "gender": "FM"[speaker % 2], "dialect": "AB"[speaker % 4 == 0]}
        rows += [
            {**shared, "utterance_id": f"s{speaker:03d}-{clip}", "duration_s": generator.uniform(1, 9)}
            for clip in range(generator.integers(3, 13))
        ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("n", "noise", "seed", "draws"), [(2, 0, 0, 1), (5, 1, 3, 3), (17, 2, 1, 2), (30, 3, 2, 1)])
def test_each_subset_is_in_the_next_and_as_near_to_its_fraction_as_speakers_allow(
    n: int, noise: int, seed: int, draws: int
) -> None:
    part = make_part(n, noise)
    subsets, _ = draw_subsets(part, (0.125, 0.5, 1.0), by=("gender", "dialect"), seed=seed, draws=draws)
    largest = part.groupby("speaker_id")["duration_s"].sum().max()
    for draw in range(draws):
        own = [one for one in subsets if one.draw == draw or one.fraction == 1]
        chosen = [set(one.rows["utterance_id"]) for one in own]
        assert all(small < large for small, large in itertools.pairwise(chosen))
    for one in subsets:
        assert set(part.loc[part["speaker_id"].isin(one.rows["speaker_id"]), "utterance_id"]) == set(
            one.rows["utterance_id"]
        )
        assert one.n_speakers >= 1
        if one.fraction == 1:
            assert len(one.rows) == len(part)
        elif one.n_speakers > 1:
            assert abs(3600 * one.hours - one.fraction * part["duration_s"].sum()) <= largest
    assert len({frozenset(one.rows["speaker_id"]) for one in subsets}) == len(subsets)


def test_the_groups_shares_are_kept_better_than_by_chance() -> None:
    part, errors = make_part(80), {True: [], False: []}
    for seed in range(12):
        for stratified in (True, False):
            by = ("gender", "dialect") if stratified else ()
            (small, *_), _ = draw_subsets(part, (0.1, 1.0), by=by, seed=seed, draws=1)
            shares = [rows.groupby("dialect")["duration_s"].sum()["B"] / rows["duration_s"].sum() if
                      "B" in set(rows["dialect"]) else 0.0 for rows in (small.rows, part)]  # fmt: skip
            errors[stratified].append(abs(shares[0] - shares[1]))
    assert np.mean(errors[True]) < 0.5 * np.mean(errors[False])


def test_a_seed_gives_the_same_subsets_and_another_others() -> None:
    part = make_part(20)

    def speakers(seed: int, table: pd.DataFrame) -> list[frozenset[str]]:
        subsets, _ = draw_subsets(table, (0.25, 0.5), by=("gender",), seed=seed, draws=2)
        return [frozenset(one.rows["speaker_id"]) for one in subsets]

    assert speakers(1, part) == speakers(1, part.sample(frac=1, random_state=0))
    assert speakers(1, part) != speakers(2, part)
    assert len(set(speakers(1, part))) == 4


def test_fractions_that_give_the_same_speakers_are_one_and_said() -> None:
    part = pd.DataFrame({"speaker_id": list("abc"), "utterance_id": list("abc"), "duration_s": 6.0})
    subsets, repeated = draw_subsets(part, (0.1, 0.3, 1.0), by=(), seed=0, draws=1)
    assert [one.fraction for one in subsets] == [0.3, 1.0]
    assert repeated == ["0.1 of the speech in draw 0, whose speakers are those of 0.3 in draw 0"]


def test_unknown_and_single_speakers_are_refused() -> None:
    part = make_part(4)
    with pytest.raises(KmedError, match=r"The speakers of \d+ of \d+ training utterances are not known"):
        draw_subsets(part.replace("s001", "N/A"), (0.5,), by=(), seed=0, draws=1)
    with pytest.raises(KmedError, match="has one speaker"):
        draw_subsets(part[part["speaker_id"] == "s001"], (0.5,), by=(), seed=0, draws=1)
