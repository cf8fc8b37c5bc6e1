"""What must hold of every event of any rule, whatever was drawn; `any_rule` draws."""

from dataclasses import fields, is_dataclass

import numpy as np

from seft_ref.arrays.library import to_numpy
from seft_ref.topology.change import change, realign
from seft_ref.topology.csr import flat, from_flat
from seft_ref.update.delta import effective
from seft_ref.update.optimizers import SpielAdamW
from tests.seft_ref.update.by_hand import bits, listed


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


class AnyEvent:
    """Checks of events; who inherits has `library`, `rule`, `optimizer`, `pattern`, `budgets` and `delta_budgets`."""

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
            assert np.all(
                np.bincount(pools[sorted(grown)], minlength=pools[-1] + 1) <= to_numpy(self.budgets[part.matrix])
            )

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
            assert [sum(x.sum() for x in dropped)] == listed(drops[0])
        else:
            for part, event, found, wanted in zip(parts, events, dropped, [int(n[0]) for n in drops], strict=True):
                if self.rule.candidates == "all":
                    assert found.sum() == wanted
                    continue
                # GROW-006: of those that do not come back as many leave as come, less the refill
                come = event.grown.shape[0] - (self.delta_budgets[part.matrix] - part.delta.topology.nnz)
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
