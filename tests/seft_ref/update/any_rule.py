"""A machine that draws any rule that chapter 8 allows, then steps and events, and what must hold whatever they are."""

from dataclasses import fields, is_dataclass

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from seft_ref.arrays import from_numpy, to_numpy
from seft_ref.evidence import View, evidence
from seft_ref.layers.linear import WeightGradient
from seft_ref.topology import check, flat, from_flat, union
from seft_ref.update.change import change, realign
from seft_ref.update.criteria import Chance
from seft_ref.update.delta import Base, effective, new_delta
from seft_ref.update.evolve import Part, evolve, final_adapt
from seft_ref.update.optimizers import Sm3, SpielAdamW, shares_of
from seft_ref.update.rules import Rule
from seft_ref.window import FirstStepWindow, Window
from tests.seft_ref.update.by_hand import Library, bits, listed
from tests.seft_ref.update.drawn_rules import rules

SHAPES = ((3, 8), (2, 4))
PATTERNS = ((2, 4), (1, 4), (3, 4), (1, 2))
FRACTIONS = st.sampled_from([0.5, 1.0, 0.75, 0.25, 0.75, 1.0, 0.5, 0.0])
SEEDS = st.integers(0, 2**32 - 1)
UNITS = st.sampled_from(["one", "one", "one", "smallest"])
"""What weights and gradients are small multiples of: 1, or the smallest number above 0, all of them subnormal then."""


def every_bit(x):
    """Every array of a value, record or list, in bytes: what an event must leave alone."""
    if is_dataclass(x):
        return [every_bit(getattr(x, f.name)) for f in fields(x)]
    if isinstance(x, dict):
        return {key: every_bit(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [every_bit(one) for one in x]
    return bits(x) if hasattr(x, "dtype") else x


def stored_bits(topology, values):
    """Flat position to the bytes of its value."""
    return {p: x.tobytes() for p, x in zip(listed(flat(topology)), to_numpy(values), strict=True)}


def pools_of(shape, scope, pattern):
    """The pool of every flat position of a matrix."""
    n_out, n_in = shape
    width = {"row": n_in, "group": pattern[1]}.get(scope, n_out * n_in)
    return np.arange(n_out * n_in) // width


def boundaries_are_in_order(event):
    for name, boundary in event.boundaries.items():
        if boundary is not None:
            low, high = (boundary.outside, boundary.inside)[:: 1 if name == "grow" else -1]
            assert low <= high, name


class AnyRun(RuleBasedStateMachine):
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
        events = evolve(parts, n_drop=drops, **self.how())
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
            window = Window(base.topology.shape, self.rule.asks_at_end())
            window = window.plus(self.factors(rng, base.topology.shape)) if self.rule.asks_at_end() else None
            (seen,) = evidence([View(window, base, delta, i)], Rule(adapt=self.rule.adapt), None)
            assert seen.scores.shape == seen.candidates.shape == (0,)
            parts.append(Part(base, delta, seen, self.budgets[i], self.delta_budgets[i], i))
        before = every_bit(parts)
        how = self.how()
        del how["seeds"]
        events = final_adapt(parts, **how)
        assert every_bit(parts) == before
        for part, event in zip(parts, events, strict=True):
            assert listed(event.dropped) == listed(event.grown) == listed(event.cancelled) == []
            self.what_is_not_moved_keeps_its_bits(part, event)
            self.values_move_with_their_positions(part, event)
        self.fits([effective(event.base, event.delta)[0] for event in events], exactly=True, was=parts)

    # how it does it

    def how(self):
        return {
            "rule": self.rule,
            "chance": Chance(self.chance_seed, self.steps),
            "pattern": self.pattern if self.rule.scope == "group" else None,
            "seeds": None if isinstance(self.optimizer, Sm3) else self.optimizer.seeds,
        }

    def window(self, rng, i, steps, scale):
        shape = self.bases[i].topology.shape
        if self.rule.candidates == "first-step":
            support = union(flat(self.bases[i].topology), flat(self.deltas[i].topology))
            window = FirstStepWindow(self.delta_budgets[i], support, Window(shape))
        else:
            if not self.rule.asks():
                return None
            window = Window(shape, self.rule.asks())
        for number in range(steps):
            window = window.settled() if number else window
            for _ in range(int(rng.integers(1, 3))):
                window = window.plus(self.factors(rng, shape, scale if number == steps - 1 else None))
        return window

    def look(self, seed, fraction, steps, scale=None):
        """The parts of an event and its counts of drops, as the loop makes them."""
        rng = np.random.default_rng(seed)
        scope = self.rule.scope
        views = [
            View(self.window(rng, i, steps, scale), base, delta, i, k if scope == "group" else None)
            for i, (base, delta, k) in enumerate(zip(self.bases, self.deltas, self.budgets, strict=True))
        ]
        how = {"chance": Chance(self.chance_seed, self.steps), "pattern": self.how()["pattern"]}
        if scope == "model":
            slots = sum(delta.topology.nnz for delta in self.deltas)
            drops = int(fraction * slots)
            seen = evidence(views, self.rule, max(0, drops + sum(self.delta_budgets) - slots), **how)
        else:
            drops, seen = [], []
            for view, budget in zip(views, self.delta_budgets, strict=True):
                if scope == "row":
                    rows = np.diff(to_numpy(view.delta.topology.indptr)).astype(np.int64)
                    n = np.floor(fraction * rows).astype(np.int64)
                    drops.append(self.library.ints(n))
                    grows = self.library.ints(np.maximum(n + to_numpy(budget) - rows, 0))
                else:
                    n = int(fraction * view.delta.topology.nnz)
                    drops.append(n)
                    grows = max(0, n + budget - view.delta.topology.nnz)
                seen += evidence([view], self.rule, grows, **how)
        zipped = enumerate(zip(views, seen, self.budgets, self.delta_budgets, strict=True))
        return [Part(v.base, v.delta, e, k, d, i) for i, (v, e, k, d) in zipped], drops

    # what must hold

    def positions_are_those_of_the_rule(self, part, event):
        base, eta = set(listed(flat(part.base.topology))), set(listed(flat(part.delta.topology)))
        dropped, grown, cancelled, pruned = (
            set(listed(x)) for x in (event.dropped, event.grown, event.cancelled, event.pruned)
        )
        for positions in (event.dropped, event.grown, event.cancelled, event.pruned):
            assert listed(positions) == sorted(set(listed(positions)))
        assert dropped <= eta
        assert cancelled <= dropped
        assert not grown & eta
        after_base = base - (dropped - cancelled) if self.rule.drops == "weight" else base
        after_eta = (eta - (dropped - cancelled)) | grown
        assert pruned <= after_base | after_eta
        assert set(listed(flat(event.base.topology))) == after_base - pruned
        assert set(listed(flat(event.delta.topology))) == after_eta - pruned
        if not self.rule.regrow:
            assert not cancelled
        if self.rule.grow_scope == "active":
            assert grown | cancelled <= base
        if self.rule.candidates == "first-step":
            assert grown <= set(listed(part.evidence.candidates))
            assert cancelled <= set(listed(part.evidence.again))
        if self.rule.adapts != "always":
            assert not pruned
        if self.rule.exempt == "new":
            assert not pruned & grown
        if self.rule.exempt == "slots":
            assert not pruned & after_eta
        if self.rule.counts == "values":
            now = {p: x for p, x in self.weights_before_adapt(part, event).items() if p in pruned}
            assert 0.0 not in now.values()
        if self.rule.scope == "group":
            pools = pools_of(part.base.topology.shape, "group", self.pattern)
            # GROW-007
            assert np.all(np.bincount(pools[sorted(grown)], minlength=pools[-1] + 1) <= to_numpy(part.budget))

    def weights_before_adapt(self, part, event):
        """W after drop and grow, in the dtype of the run: new slots are 0, dropped ones gone."""
        base = dict(zip(listed(flat(part.base.topology)), listed(part.base.values), strict=True))
        phi = dict(zip(listed(flat(part.delta.topology)), listed(part.delta.values), strict=True))
        gone = set(listed(event.dropped)) - set(listed(event.cancelled))
        if self.rule.drops == "weight":
            base = {p: x for p, x in base.items() if p not in gone}
        phi = {p: x for p, x in phi.items() if p not in gone} | dict.fromkeys(listed(event.grown), 0.0)
        dtype = self.library.dtype
        return {p: float(dtype(base.get(p, 0.0)) + dtype(phi.get(p, 0.0))) for p in set(base) | set(phi)}

    def what_is_not_moved_keeps_its_bits(self, part, event):
        """EVT-006, DLT-003: base, slots and weights off the event keep their bits, the base never gains."""
        old, new = (stored_bits(b.topology, b.values) for b in (part.base, event.base))
        assert set(new) <= set(old)
        assert all(old[p] == x for p, x in new.items())
        grown, cancelled = set(listed(event.grown)), set(listed(event.cancelled))
        assert set(event.delta.kept) == set(part.delta.kept)
        for name in ("values", *part.delta.kept):
            arrays = [d.values if name == "values" else d.kept[name] for d in (part.delta, event.delta)]
            assert arrays[0].dtype == arrays[1].dtype
            old, new = (stored_bits(d.topology, x) for d, x in zip((part.delta, event.delta), arrays, strict=True))
            if name == "origin":
                # DROP-003: a cancelled slot enters anew
                old |= {p: x for p, x in stored_bits(part.delta.topology, part.delta.values).items() if p in cancelled}
            assert all(old[p] == x for p, x in new.items() if p not in grown), name
        assert every_bit(part.delta.shared) == every_bit(event.delta.shared)
        touched = set().union(*(listed(x) for x in (event.dropped, event.grown, event.pruned)))
        old, new = (stored_bits(*effective(x.base, x.delta)) for x in (part, event))
        assert {p: x for p, x in old.items() if p not in touched} == {p: x for p, x in new.items() if p not in touched}
        # DROP-002, DROP-004, ADPT-004
        base = stored_bits(part.base.topology, part.base.values)
        for p in touched - grown - cancelled:
            stays = p in base and p not in listed(event.pruned) and self.rule.drops == "slot"
            assert new.get(p) == (base[p] if stays else None)

    def new_slots_start_as_they_should(self, part, event):
        """DLT-005, DLT-006."""
        eta = listed(flat(event.delta.topology))
        fresh = [eta.index(p) for p in listed(event.grown) if p in set(eta)]
        for name, array in {"values": event.delta.values, **event.delta.kept}.items():
            found = to_numpy(array)[fresh]
            if name in ("values", "origin") or self.rule.moments == "zero":
                assert found.tobytes() == np.zeros(len(fresh), found.dtype).tobytes(), name
            elif name == "age":
                steps = part.evidence.steps
                assert set(found.tolist()) <= {steps - 1 if isinstance(self.optimizer, SpielAdamW) else steps}
            else:
                seen = part.evidence
                at = {p: j for j, p in enumerate(listed(seen.candidates))}
                where = [at[eta[j]] for j in fresh]
                if not where:
                    continue
                mean, square = (to_numpy(x)[where] for x in (seen.candidate_gradient, seen.candidate_square))
                o, a = self.optimizer, seen.steps
                if name == "momentum":
                    expected = mean * found.dtype.type((1 - o.momentum**a) / (1 - o.momentum))
                elif name == "first_moment":
                    expected = mean * found.dtype.type(1 - o.beta1**a)
                else:
                    expected = square * found.dtype.type(1 - o.beta2**a)
                assert found.tobytes() == expected.tobytes(), name

    def values_move_with_their_positions(self, part, event):
        """CHG-001, CHG-002."""
        for before, after in ((part.base, event.base), (part.delta, event.delta)):
            assert bits(realign(before.values, change(before.topology, after.topology))) == bits(after.values)

    def counts_are_those_of_the_clauses(self, parts, drops, events):
        """SCH-002, GROW-002, GROW-006, ADPT-001, ADPT-006, DLT-001, SEL-008, EVT-003, EVT-009."""
        for event in events:
            boundaries_are_in_order(event)
        dropped = [self.per_pool(p, e.dropped) for p, e in zip(parts, events, strict=True)]
        if self.rule.scope == "row":
            for found, wanted in zip(dropped, drops, strict=True):
                assert found.tolist() == listed(wanted)
        elif self.rule.scope == "model":
            assert sum(x.sum() for x in dropped) == drops
        else:
            for part, event, found, wanted in zip(parts, events, dropped, drops, strict=True):
                if self.rule.candidates == "all":
                    assert found.sum() == wanted
                    continue
                # GROW-006: of those that do not come back as many leave as come, less the refill
                come = event.grown.shape[0] - (part.delta_budget - part.delta.topology.nnz)
                assert found.sum() - event.cancelled.shape[0] <= max(0, come) <= wanted
        # |η| never exceeds its budget
        slots = [self.per_pool(p, flat(e.delta.topology), whole=True) for p, e in zip(parts, events, strict=True)]
        if self.rule.scope == "model":
            assert sum(x.sum() for x in slots) <= sum(self.delta_budgets)
        else:
            for found, budget in zip(slots, self.delta_budgets, strict=True):
                assert np.all(found <= to_numpy(budget) if self.rule.scope == "row" else found.sum() <= budget)
        if self.rule.adapts == "always":
            supports = []
            for event in events:
                support, weight = effective(event.base, event.delta)
                held = flat(support) if self.rule.counts == "support" else flat(support)[weight != 0]
                supports.append(from_flat(support.shape, held))
            self.fits(supports)

    def per_pool(self, part, positions, *, whole=False):
        """How many positions lie in each row, or in the matrix."""
        shape = part.base.topology.shape
        if self.rule.scope != "row":
            return np.asarray([positions.shape[0]])
        return np.bincount(to_numpy(positions) // shape[1], minlength=shape[0])

    def fits(self, supports, *, exactly=False, was=None):
        """Every pool of what is counted is at most its budget; with exactly, as large as it can be."""
        sizes = []
        for support in supports:
            pools = pools_of(support.shape, self.rule.scope, self.pattern)
            sizes.append(np.bincount(pools[to_numpy(flat(support))], minlength=pools[-1] + 1))
        budgets = [to_numpy(k) if self.rule.scope in ("row", "group") else k for k in self.budgets]
        if self.rule.scope == "model":
            sizes, budgets = [sum(x.sum() for x in sizes)], [sum(self.budgets)]
        for found, budget in zip(sizes, budgets, strict=True):
            assert np.all(found <= budget)
        if exactly:
            before = [effective(part.base, part.delta)[0] for part in was]
            kept = [set(listed(flat(b))) - set(listed(flat(s))) for b, s in zip(before, supports, strict=True)]
            if self.rule.scope in ("matrix", "model"):
                # nothing was pruned that could have stayed
                for gone, found, budget in zip(
                    kept if self.rule.scope == "matrix" else [set().union(*kept)], sizes, budgets, strict=True
                ):
                    assert not gone or np.sum(found) == budget

    @invariant()
    def every_topology_is_one(self):
        for base, delta in zip(getattr(self, "bases", []), getattr(self, "deltas", []), strict=True):
            check(base.topology)
            check(delta.topology)
            check(effective(base, delta)[0])
            for array in (base.values, delta.values, *delta.kept.values(), *delta.shared.values()):
                assert np.isfinite(to_numpy(array)).all()
