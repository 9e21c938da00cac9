"""Assignment of speakers and sentences to parts; no two parts share one.

An utterance can be used only where its speaker and its sentence were given to the same part; the
others cross and are left out. On a large corpus a proportionate choice leaves plenty; on a small
one every crossing utterance is dear, so a local search looks for the choice with the smallest
shortage. All costs are integers and all chance comes from hashes and `random.Random.random`,
which Python keeps the same across versions, so equal input gives equal output everywhere.
"""

import dataclasses
import itertools
import math
import random

import numpy as np

from kmed_bench.corpus.splitting.quotas import Counts, count_members

N_PARTS = 3
Parts = tuple[list[int], list[int]]
Edge = tuple[int, list[int]]  # the speaker or sentence at the other end, and the strata served

# Found by trial on corpora of 200 to 300 utterances whose optimum an exact solver gave.
_MEMORY = 50  # moves
_CLIMBS = 20
_PATIENCE = 20  # moves per speaker and sentence without a gain
_SPEAKER_MOVES = 0.4  # of all moves


@dataclasses.dataclass(frozen=True)
class Problem:
    """A corpus as a graph: speakers and sentences are nodes, utterances are edges.

    Attributes
    ----------
    speaker, sentence : array (n_utterances,)
        Index of each utterance's speaker and sentence. Where only speakers must differ between
        parts, each speaker counts as its own sentence, and vice versa.
    cell : array (n_utterances,)
        Index of each utterance's cell: utterances of one cell serve the same strata.
    member : array (n_cells, n_fields)
        Index of each cell's stratum in each field; one column of zeros where there is no field.
    value : array (n_cells, n_fields)
        Likewise for single values, by which speakers are dealt out first; merged ones fare better so.
    needs : array (3, n_strata)
        Utterances that each part needs of each stratum.
    sizes : tuple
        Utterances that each part needs.
    """

    speaker: Counts
    sentence: Counts
    cell: Counts
    member: Counts
    value: Counts
    needs: Counts
    sizes: tuple[int, int, int]


class Assignment:
    """Parts of all speakers and sentences, with the shortage they leave, kept up to date move by move."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        strata = problem.member.tolist()  # one list per cell, shared by all its edges
        self.of_speaker = _edges(problem.speaker, problem.sentence, problem.cell, strata)
        self.of_sentence = _edges(problem.sentence, problem.speaker, problem.cell, strata)
        self.speaker = [-1] * len(self.of_speaker)
        self.sentence = [-1] * len(self.of_sentence)
        self.needs = problem.needs.tolist()
        self.have = [[0] * len(row) for row in self.needs]
        self.short = [sum(row) for row in self.needs]  # strata of every field, so n_fields times the size

    def cost(self) -> int:
        """Return the sum over the parts of the squared relative shortage; 0 when all needs are met."""
        return sum((short * 10_000 // size) ** 2 for short, size in zip(self.short, self.problem.sizes, strict=True))

    def move_speaker(self, index: int, part: int) -> None:
        """Assign a speaker to a part; -1: to none."""
        self._move(self.of_speaker[index], self.sentence, self.speaker[index], part)
        self.speaker[index] = part

    def move_sentence(self, index: int, part: int) -> None:
        """Assign a sentence to a part; -1: to none."""
        self._move(self.of_sentence[index], self.speaker, self.sentence[index], part)
        self.sentence[index] = part

    def copy_parts(self) -> Parts:
        """Return the parts of all speakers and of all sentences."""
        return self.speaker.copy(), self.sentence.copy()

    def restore(self, parts: Parts) -> None:
        """Go back to parts that were copied before."""
        for index, part in enumerate(parts[0]):
            self.move_speaker(index, part)
        for index, part in enumerate(parts[1]):
            self.move_sentence(index, part)

    def _move(self, edges: list[Edge], others: list[int], old: int, new: int) -> None:
        if old == new:
            return
        for other, strata in edges:
            part = others[other]
            if part < 0:
                continue
            have, needs = self.have[part], self.needs[part]
            if part == old:
                for stratum in strata:
                    if have[stratum] <= needs[stratum]:
                        self.short[part] += 1
                    have[stratum] -= 1
            elif part == new:
                for stratum in strata:
                    if have[stratum] < needs[stratum]:
                        self.short[part] -= 1
                    have[stratum] += 1


def _edges(units: Counts, others: Counts, cell: Counts, strata: list[list[int]]) -> list[list[Edge]]:
    edges: list[list[Edge]] = [[] for _ in range(int(units.max()) + 1)]
    for unit, other, kind in zip(units.tolist(), others.tolist(), cell.tolist(), strict=True):
        edges[unit].append((other, strata[kind]))
    return edges


def assign(problem: Problem, seed: int, effort: int | None = None) -> Assignment:
    """Return the parts of all speakers and sentences with the smallest shortage found.

    Parameters
    ----------
    seed : int
        Together with the order of speakers and sentences, it decides which of many equal choices
        is taken.
    effort : int, optional
        How many utterances the search may touch before it gives up; a count, not a time, so
        a slow machine finds what a fast one finds. By default three million, or twenty per
        utterance. The search stops as soon as nothing is lacking.
    """
    assignment = Assignment(problem)
    _start(assignment)
    if assignment.cost() > 0:
        _search(assignment, random.Random(f"split {seed}"), effort or max(3_000_000, 20 * len(problem.speaker)))
    return assignment


def _start(assignment: Assignment) -> None:
    """Assign speakers, rarest strata first, then sentences, each to the part that lacks most of them."""
    problem = assignment.problem
    two_sided = not np.array_equal(problem.speaker, problem.sentence)
    # A share a of the speakers and a share a of the sentences leave a * a of the utterances.
    weights = [math.isqrt(size << 20) if two_sided else size << 10 for size in problem.sizes]
    n_cells = len(problem.member)
    size = np.bincount(problem.cell, minlength=n_cells).astype(np.int64)
    total = count_members(problem.value, size)
    goal = [[max(1, int(n) * w // sum(weights)) for n in total] for w in weights]
    order, loads = _rank_speakers(problem, total)
    given = np.zeros((N_PARTS, len(total)), np.int64)
    for speaker in order:
        cells, counts = loads[speaker]
        mine = np.unique(problem.value[cells]).tolist()
        lack = [sum((g[k] - int(have[k])) * 1000 // g[k] for k in mine) for g, have in zip(goal, given, strict=True)]
        part = lack.index(max(lack))
        assignment.move_speaker(speaker, part)
        for column in problem.value[cells].T:
            np.add.at(given[part], column, counts)
    # What a part may hold of the utterances that its speakers and sentences share.
    room = [
        max(1, sum(g) * (w if two_sided else sum(weights)) // sum(weights)) for g, w in zip(goal, weights, strict=True)
    ]
    used = [0] * N_PARTS
    for sentence, edges in enumerate(assignment.of_sentence):
        gain = [0] * N_PARTS
        for other, row in edges:
            gain[assignment.speaker[other]] += len(row)
        worth = [gain[p] * max(1, (room[p] - used[p]) * 1000 // room[p]) for p in range(N_PARTS)]
        part = worth.index(max(worth))
        assignment.move_sentence(sentence, part)
        used[part] += gain[part]


def _rank_speakers(problem: Problem, total: Counts) -> tuple[list[int], list[tuple[Counts, Counts]]]:
    """Return the speakers, holders of the rarest values first, and the cells and counts of each one's utterances."""
    n_speakers, n_cells = int(problem.speaker.max()) + 1, len(problem.value)
    pairs, counts = np.unique(problem.speaker * n_cells + problem.cell, return_counts=True)
    owner, cells = pairs // n_cells, pairs % n_cells
    rarest = np.full(n_speakers, len(problem.cell))
    np.minimum.at(rarest, owner, total[problem.value[cells]].min(axis=1))
    bounds = np.searchsorted(owner, np.arange(n_speakers + 1))
    loads = [(cells[a:b], counts[a:b].astype(np.int64)) for a, b in itertools.pairwise(bounds)]
    return np.argsort(rarest, kind="stable").tolist(), loads


def _search(assignment: Assignment, chance: random.Random, effort: int) -> None:
    """Improve the assignment by late acceptance hill climbing (Burke and Bykov, 2017), with restarts.

    A climb that has stalled is followed by one from the best assignment so far with some speakers
    moved, and by one from all speakers dealt out again, turn by turn.
    """
    best_cost, best = assignment.cost(), assignment.copy_parts()
    climbs = 0
    while effort > 0 and best_cost > 0 and climbs < _CLIMBS:
        n_speakers = len(assignment.speaker)
        if climbs % 2:
            assignment.restore(best)
        if climbs:
            for _ in range(max(2, n_speakers // 6)) if climbs % 2 else range(n_speakers):
                speaker, part = int(chance.random() * n_speakers), int(chance.random() * N_PARTS)
                effort -= _move_with_sentences(assignment, speaker, part)[1]
        effort, cost, parts = _climb(assignment, chance, effort)
        climbs += 1
        if cost < best_cost:
            best_cost, best = cost, parts
    assignment.restore(best)


def _climb(assignment: Assignment, chance: random.Random, effort: int) -> tuple[int, int, Parts]:
    """Return the effort left, and the lowest cost with its parts, of one climb.

    A move is kept when it makes things no worse than they are, or than they were _MEMORY moves ago.
    The moves: a sentence changes its part; a speaker does, and its sentences follow their majority.
    """
    n_speakers, n_sentences = len(assignment.speaker), len(assignment.sentence)
    cost = best_cost = assignment.cost()
    best = assignment.copy_parts()
    memory = [cost] * _MEMORY
    step = last_gain = 0
    while effort > 0 and best_cost > 0 and step - last_gain < _PATIENCE * (n_speakers + n_sentences):
        step += 1
        part = int(chance.random() * N_PARTS)
        if chance.random() < _SPEAKER_MOVES:
            index = int(chance.random() * n_speakers)
            undo, touched = _move_with_sentences(assignment, index, part)
        else:
            index, sentence = -1, int(chance.random() * n_sentences)
            undo, touched = [(sentence, assignment.sentence[sentence])], len(assignment.of_sentence[sentence])
            assignment.move_sentence(sentence, part)
        effort -= touched + 3
        new, slot = assignment.cost(), step % _MEMORY
        if new <= cost or new <= memory[slot]:
            cost = new
            if cost < best_cost:
                best_cost, best, last_gain = cost, assignment.copy_parts(), step
        else:
            if index >= 0:
                assignment.move_speaker(index, undo.pop()[1])
            for sentence, old in undo:
                assignment.move_sentence(sentence, old)
        memory[slot] = min(memory[slot], cost)
    return effort, best_cost, best


def _move_with_sentences(assignment: Assignment, speaker: int, part: int) -> tuple[list[tuple[int, int]], int]:
    """Move a speaker and let its sentences follow; returns what undoes it and the edges touched."""
    old = assignment.speaker[speaker]
    assignment.move_speaker(speaker, part)
    undo: list[tuple[int, int]] = []
    touched = len(assignment.of_speaker[speaker])
    for sentence in sorted({other for other, _ in assignment.of_speaker[speaker]}):
        votes = [0] * N_PARTS
        edges = assignment.of_sentence[sentence]
        for other, _ in edges:
            votes[assignment.speaker[other]] += 1
        touched += len(edges)
        now = assignment.sentence[sentence]
        favourite = part if votes[part] == max(votes) else votes.index(max(votes))
        if favourite != now:
            undo.append((sentence, now))
            assignment.move_sentence(sentence, favourite)
    undo.append((-1, old))
    return undo, touched
