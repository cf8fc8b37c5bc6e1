"""A machine that draws any rule that chapter 8 allows, then steps and events, and what must hold whatever they are."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from seft_ref.arrays.library import from_numpy, to_numpy
from seft_ref.layers.linear import WeightGradient
from seft_ref.matrix.evidence import View, evidence
from seft_ref.matrix.window import FirstStepWindow, opened
from seft_ref.topology.csr import check, flat, from_flat
from seft_ref.update.criteria import Chance
from seft_ref.update.delta import Base, effective, new_delta
from seft_ref.update.evolve import Part, evolve, final_adapt
from seft_ref.update.optimizers import Sm3, shares_of
from seft_ref.update.pools import pools_of
from seft_ref.update.rules import Rule
from tests.seft_ref.update.any_event import AnyEvent, every_bit
from tests.seft_ref.update.by_hand import Library, bits, listed
from tests.seft_ref.update.drawn_rules import rules

SHAPES = ((3, 8), (2, 4))
PATTERNS = ((2, 4), (1, 4), (3, 4), (1, 2))
FRACTIONS = st.sampled_from([0.5, 1.0, 0.75, 0.25, 0.75, 1.0, 0.5, 0.0])
SEEDS = st.integers(0, 2**32 - 1)
UNITS = st.sampled_from(["one", "one", "one", "smallest"])
"""What weights and gradients are small multiples of: 1, or the smallest number above 0, all of them subnormal then."""


class AnyRun(AnyEvent, RuleBasedStateMachine):
    """Two target matrices from their load to as many steps and events as are drawn."""

    library: Library

    @initialize(choices=rules(), pattern=st.sampled_from(PATTERNS), density=FRACTIONS, unit=UNITS, seed=SEEDS)
    def load(self, choices, pattern, density, unit, seed):
        self.optimizer, self.rule = choices
        self.pattern = pattern
        self.unit = 1.0 if unit == "one" else float(np.finfo(self.library.dtype).smallest_subnormal)
        rng = np.random.default_rng(seed)
        self.chance_seed, self.steps = seed, 0
        keeps = (*self.optimizer.keeps, *(("origin",) if self.rule.drop == "change" else ()))
        self.bases, self.deltas, self.budgets, self.delta_budgets = [], [], [], []
        for shape in SHAPES:
            size = shape[0] * shape[1]
            order = rng.random(size)
            keep = rng.random(size) < 0.6
            if self.rule.scope == "group":
                by_group = np.argsort(np.argsort(order.reshape(-1, pattern[1]), axis=1), axis=1)
                keep = (by_group < pattern[0]).reshape(-1) & (rng.random(size) < 0.9)
            positions = np.flatnonzero(keep)
            values = rng.choice([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 3.0], positions.size) * self.unit
            base = Base(from_flat(shape, self.library.ints(positions)), self.library.floats(values))
            anywhere = self.rule.adapts == "never" and bool(rng.integers(2))
            open_to = np.arange(size) if anywhere else positions
            eta = np.sort(rng.choice(open_to, int(density * positions.size), replace=False))
            delta = new_delta(shape, self.library.ints(eta), base.values, keeps, shares_of(self.optimizer, shape))
            self.bases.append(base)
            self.deltas.append(delta)
            if self.rule.scope == "group":
                groups = np.bincount(positions // pattern[1], minlength=size // pattern[1])
                self.budgets.append(self.library.ints(groups))
                self.delta_budgets.append(len(eta))
            elif self.rule.scope == "row":
                self.budgets.append(self.library.ints(np.bincount(positions // shape[1], minlength=shape[0])))
                self.delta_budgets.append(self.library.ints(np.bincount(eta // shape[1], minlength=shape[0])))
            else:
                self.budgets.append(positions.size)
                self.delta_budgets.append(len(eta))

    # what a run does

    def factors(self, rng, shape, scale=None):
        n = int(rng.integers(1, 4))
        dy, x = rng.integers(-2, 3, (n, shape[0])), rng.integers(-2, 3, (n, shape[1]))
        # a dead input now and then
        x = x * (rng.random(shape[1]) < 0.8)
        dy = dy * self.unit
        if scale is not None:
            # one entry, or one row where zero times it is no number
            dy, x = np.zeros((1, shape[0])), np.zeros((1, shape[1]))
            dy[0, rng.integers(shape[0])], x[0, rng.integers(shape[1])] = scale, 1
        return WeightGradient(
            *(from_numpy(np.asarray(a, dtype=self.library.dtype), self.library.like) for a in (dy, x))
        )

    @rule(seed=SEEDS, lr=st.sampled_from([0.0, 0.01, 0.5]))
    def step(self, seed, lr):
        rng = np.random.default_rng(seed)
        self.steps += 1
        for i, delta in enumerate(self.deltas):
            f = self.factors(rng, delta.topology.shape)
            whole = to_numpy(f.dy).T @ to_numpy(f.x)
            at = self.library.floats(whole.reshape(-1)[to_numpy(flat(delta.topology))])
            before = every_bit([delta, at])
            after = self.optimizer.step(delta, at, lr)
            assert every_bit([delta, at]) == before
            assert after.topology is delta.topology
            assert set(after.kept) == set(delta.kept)
            if "origin" in delta.kept:
                assert bits(after.kept["origin"]) == bits(delta.kept["origin"])
            self.deltas[i] = after

    @rule(seed=SEEDS, fraction=FRACTIONS, steps=st.integers(1, 3))
    def evolves(self, seed, fraction, steps):
        parts, drops = self.look(seed, fraction, steps)
        before = every_bit(parts)
        events = self.evolved(parts, drops)
        assert every_bit(parts) == before
        for i, (part, event) in enumerate(zip(parts, events, strict=True)):
            self.positions_are_those_of_the_rule(part, event)
            self.what_is_not_moved_keeps_its_bits(part, event)
            self.new_slots_start_as_they_should(part, event)
            self.values_move_with_their_positions(part, event)
            self.bases[i], self.deltas[i] = event.base, event.delta
        self.counts_are_those_of_the_clauses(parts, drops, events)

    @rule(seed=SEEDS)
    def would_end(self, seed):
        """EVT-004: the last pass brings every pool to its budget by support, and moves nothing else."""
        if self.rule.adapts == "never":
            return
        rng = np.random.default_rng(seed)
        parts = []
        for i, (base, delta) in enumerate(zip(self.bases, self.deltas, strict=True)):
            window = opened(base, delta.topology, self.rule.asks_at_end())
            window = window.plus(self.factors(rng, base.topology.shape)) if self.rule.asks_at_end() else None
            (seen,) = evidence([View(window, base, delta, i)], Rule(adapt=self.rule.adapt), None)
            assert seen.scores.shape == seen.candidates.shape == (0,)
            parts.append(Part(base, delta, seen, i))
        before = every_bit(parts)
        how = {"rule": self.rule, "chance": Chance(self.chance_seed, self.steps)}
        events = [e for some in self.compared() for e in final_adapt([parts[i] for i in some], self.pools(some), **how)]
        assert every_bit(parts) == before
        for part, event in zip(parts, events, strict=True):
            assert listed(event.dropped) == listed(event.grown) == listed(event.cancelled) == []
            self.what_is_not_moved_keeps_its_bits(part, event)
            self.values_move_with_their_positions(part, event)
        self.fits([effective(event.base, event.delta)[0] for event in events], exactly=True, was=parts)

    # how it does it

    def compared(self):
        """The numbers of the matrices that are compared with each other, in lists."""
        return [[0, 1]] if self.rule.scope == "model" else [[0], [1]]

    def pools(self, numbers):
        def arrays(counts):
            chosen = [[counts[i]] if isinstance(counts[i], int) else to_numpy(counts[i]) for i in numbers]
            return [self.library.ints(one) for one in chosen]

        shape = self.bases[numbers[0]].shape
        return pools_of(self.rule, shape, arrays(self.budgets), arrays(self.delta_budgets), self.pattern)

    def evolved(self, parts, drops):
        """The events of all parts; drops holds the counts of those that are compared with each other."""
        how = {"rule": self.rule, "chance": Chance(self.chance_seed, self.steps)}
        how["seeds"] = None if isinstance(self.optimizer, Sm3) else self.optimizer.seeds
        return [
            event
            for numbers, n in zip(self.compared(), drops, strict=True)
            for event in evolve([parts[i] for i in numbers], self.pools(numbers), n_drop=n, **how)
        ]

    def window(self, rng, i, steps, scale):
        shape, rule = self.bases[i].topology.shape, self.rule
        if not rule.asks():
            return None
        window = opened(self.bases[i], self.deltas[i].topology, rule.asks(), on_support=rule.only_on_support)
        if rule.candidates == "first-step":
            window = FirstStepWindow(self.delta_budgets[i], window)
        for number in range(steps):
            window = window.settled() if number else window
            for _ in range(int(rng.integers(1, 3))):
                window = window.plus(self.factors(rng, shape, scale if number == steps - 1 else None))
        return window

    def look(self, seed, fraction, steps, scale=None):
        """The parts of an event and its counts of drops, as the loop makes them."""
        rng = np.random.default_rng(seed)
        views = [
            View(self.window(rng, i, steps, scale), base, delta, i)
            for i, (base, delta) in enumerate(zip(self.bases, self.deltas, strict=True))
        ]
        drops, seen = [], []
        for numbers in self.compared():
            if self.rule.scope == "row":
                slots = np.diff(to_numpy(self.deltas[numbers[0]].topology.indptr)).astype(np.int64)
            else:
                slots = np.asarray([sum(self.deltas[i].topology.nnz for i in numbers)])
            n = np.floor(fraction * slots).astype(np.int64)
            drops.append(self.library.ints(n))
            budget = sum(to_numpy(k) for k in self.pools(numbers).delta_budgets)
            grows = self.library.ints(np.maximum(n + budget - slots, 0))
            how = {"pools": self.pools(numbers), "chance": Chance(self.chance_seed, self.steps)}
            seen += evidence([views[i] for i in numbers], self.rule, grows, **how)
        return [Part(v.base, v.delta, e, v.matrix) for v, e in zip(views, seen, strict=True)], drops

    @invariant()
    def every_topology_is_one(self):
        for base, delta in zip(getattr(self, "bases", []), getattr(self, "deltas", []), strict=True):
            check(base.topology)
            check(delta.topology)
            check(effective(base, delta)[0])
            for array in (base.values, delta.values, *delta.kept.values(), *delta.shared.values()):
                assert np.isfinite(to_numpy(array)).all()
