"""Terms of pod affinity and anti-affinity that pods on nodes hold, as columns: which of them speak of a pod, and where their
holders are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shoal_contracts.state import PodRecord
from shoal_core.nodes import Ints
from shoal_core.placement.standings import Bools, Column, Meaning, Namespaces, Standings
from shoal_core.vocabulary import Interner

IN, NOT_IN, EXISTS, MISSING, ODD = range(5)
_OPERATORS = {"In": IN, "NotIn": NOT_IN, "Exists": EXISTS, "DoesNotExist": MISSING}


class Term(NamedTuple):
    """What a pod holds."""

    meaning: Meaning
    topology_key: str
    weight: int
    """0: a required anti-affinity; otherwise what it is worth to be near its holder."""
    hard: bool
    """A required affinity."""


class Concern(NamedTuple):
    """How the terms of others that speak of a pod count, for one topology key."""

    topology_key: str
    counts: Ints
    """(nodes,): holders, times the weight of their terms where they have one."""


class Terms:
    """The terms of one session. A term that many pods hold is one row; each holder of it is a pair."""

    def __init__(self, namespaces: Namespaces, standings: Standings, size: int) -> None:
        self._namespaces, self._standings, self._size = namespaces, standings, size
        self._numbers: dict[tuple[object, ...], int] = {}
        self._terms: list[Term] = []
        self._keys: Interner[str] = Interner()
        """Topology keys."""
        self._key, self._weight, self._hard = Column(), Column(), Column()
        # Of each requirement of a term's selectors; a list of several values, or an operator that is none, is looked at alone.
        self._of, self._label, self._operator, self._value = Column(), Column(), Column(), Column()
        self._labels: Interner[str] = Interner()
        self._values: Interner[str] = Interner()
        self._alone: list[int] = []
        """Terms that are looked at one by one."""
        self._plain = Column()
        """By term: 1 where the columns say all of it, but for its namespaces."""
        self._space = Column()
        """By term: the number of its only namespace, -1 where it has others."""
        self._spaces: Interner[str] = Interner()
        self._pair_term, self._pair_row = Column(), Column()
        self._paired: dict[str, int] = {}
        """Pod's uid -> how many of its rows have pairs."""
        self._known: dict[tuple[object, ...], Bools] = {}

    def __len__(self) -> int:
        return len(self._terms)

    def complete(self, uid: str) -> bool:
        """Whether nothing of a pod is to be taken in: all its rows have pairs."""
        return self._paired.get(uid, 0) == len(self._standings.rows.get(uid, ()))

    def hold(self, uid: str, terms: list[Term]) -> None:
        """The pod, which has rows among the standings, holds these terms."""
        rows = self._standings.rows.get(uid, [])
        done = self._paired.get(uid, 0)
        if done == len(rows):
            return
        numbers = [self._number(term) for term in terms]
        for row in rows[done:]:
            for number in numbers:
                self._pair_term.append(number)
                self._pair_row.append(row)
        self._paired[uid] = len(rows)

    def _number(self, term: Term) -> int:
        key = (term.meaning.key, term.topology_key, term.weight, term.hard)
        found = self._numbers.get(key)
        if found is not None:
            return found
        found = self._numbers[key] = len(self._terms)
        self._terms.append(term)
        self._key.append(self._keys.number(term.topology_key))
        self._weight.append(term.weight)
        self._hard.append(term.hard)
        meaning = term.meaning
        single = len(meaning.namespaces) == 1 and meaning.elsewhere is None
        self._space.append(self._spaces.number(meaning.namespaces[0]) if single else -1)
        requirements = [r for selector in meaning.wanted for r in selector.requirements]
        plain = single and bool(meaning.wanted) and not meaning.claim
        for r in requirements:
            operator = _OPERATORS.get(r.operator, ODD)
            plain = plain and operator != ODD and (operator >= EXISTS or len(r.values) == 1)
        self._plain.append(plain)
        if not plain:
            self._alone.append(found)
            return found
        for r in requirements:
            operator = _OPERATORS[r.operator]
            self._of.append(found)
            self._label.append(self._labels.number(r.key))
            self._operator.append(operator)
            self._value.append(self._values.number(r.values[0]) if operator < EXISTS else -1)
        return found

    def speaking(self, pod: PodRecord) -> Bools:
        """(terms,) bool: which terms speak of the pod."""
        key = (pod.namespace, *sorted(pod.labels.items()))
        known = self._known.get(key)
        if known is None or len(known) < len(self._terms):
            known = self._known[key] = self._look(pod)
        return known

    def _look(self, pod: PodRecord) -> Bools:
        found = self._plain.now == 1
        space = self._spaces.find(pod.namespace)
        found = found & (self._space.now == (-2 if space is None else space))
        if len(self._of) and found.any():
            have = np.full(len(self._labels), -1, np.int64)
            for label, value in pod.labels.items():
                if (number := self._labels.find(label)) is not None:
                    # A value that no term names: there all the same.
                    known = self._values.find(value)
                    have[number] = len(self._values) if known is None else known
            value, operator = have[self._label.now], self._operator.now
            same = value == self._value.now
            met = np.select(
                [operator == IN, operator == NOT_IN, operator == EXISTS], [same, ~same, value >= 0], default=value < 0
            )
            found[self._of.now[~met]] = False
        for number in self._alone:
            found[number] = self._terms[number].meaning.means(pod, self._namespaces)
        return found

    def _pairs(self, chosen: Bools, uid: str) -> Ints:
        """Pairs of the chosen terms, but for those that the pod itself holds."""
        pairs = np.flatnonzero(chosen[self._pair_term.now])
        if own := self._standings.rows.get(uid):
            pairs = pairs[~np.isin(self._pair_row.now[pairs], own)]
        return pairs

    def any(self, pod: PodRecord) -> bool:
        """Whether a term speaks of the pod, though perhaps no pod holds it any more."""
        return bool(self.speaking(pod).any())

    def held(self, pod: PodRecord, *, weighted: bool) -> bool:
        """Whether a pod that counts somewhere, this one perhaps, holds a term with a weight (or none) that speaks of it."""
        chosen = self.speaking(pod) & ((self._weight.now != 0) == weighted)
        if not chosen.any():
            return False
        rows = self._pair_row.now[chosen[self._pair_term.now]]
        places = (self._standings.near, self._standings.leaving, self._standings.active)
        return any(bool((column.now[rows] >= 0).any()) for column in places)

    def repelling(self, pod: PodRecord, later: bool) -> list[Concern]:
        """By topology key: holders of required anti-affinities that speak of the pod. ``later``: without those that leave."""
        chosen = self.speaking(pod) & (self._weight.now == 0)
        return self._concerns(chosen, pod.uid, later, None)

    def attracting(self, pod: PodRecord, *, hard: bool) -> list[Concern]:
        """By topology key: the sum of weights of the terms that speak of the pod; ``hard``: required affinities count."""
        chosen = self.speaking(pod) & (self._weight.now != 0)
        if not hard:
            chosen &= self._hard.now == 0
        return self._concerns(chosen, pod.uid, False, self._weight.now)

    def _concerns(self, chosen: Bools, uid: str, later: bool, weights: Ints | None) -> list[Concern]:
        if not chosen.any():
            return []
        pairs = self._pairs(chosen, uid)
        if not len(pairs):
            return []
        terms, rows = self._pair_term.now[pairs], self._pair_row.now[pairs]
        keys = self._key.now[terms]
        found = np.zeros((len(self._keys), self._size), np.int64)
        for column in (self._standings.near,) if later else (self._standings.near, self._standings.leaving):
            nodes = column.now[rows]
            there = nodes >= 0
            value = 1 if weights is None else weights[terms[there]]
            np.add.at(found, (keys[there], nodes[there]), value)
        return [Concern(self._keys.values[key], found[key]) for key in np.unique(keys).tolist() if found[key].any()]
