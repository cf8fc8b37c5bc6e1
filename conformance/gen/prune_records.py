"""Cases of reading the record that a pruner writes (PRN-008)."""

from typing import Any

from conformance.gen.numbers import Area, ids
from conformance.gen.train_around import answered
from conformance.oracle import prune

RECORDS = (
    ("wanda", '{"method":"wanda","sparsity":0.5,"pattern":null,"removed":5,"of":10}'),
    ("pattern", '{"method":"sparsegpt","sparsity":null,"pattern":"2:4","removed":5,"of":10}'),
    ("wide", '{"method":"magnitude","sparsity":null,"pattern":"15:16","removed":1,"of":16}'),
    ("absent", '{"method":"magnitude","sparsity":0.5,"removed":5,"of":10}'),
    ("bare", "{}"),
    ("list", "[]"),
    ("number", "3"),
    ("cut", '{"method":"wan'),
    ("nothing", ""),
    ("text", '{"pattern":"2-4"}'),
    ("pair", '{"pattern":[2,4]}'),
    ("zero", '{"pattern":"0:4"}'),
    ("all", '{"pattern":"4:4"}'),
    ("spaces", '{"pattern":"2 : 4"}'),
    ("sign", '{"pattern":"+2:4"}'),
    ("flag", '{"pattern":false}'),
    ("both", '{"method":"wanda","sparsity":0.5,"pattern":"2:4","removed":5,"of":10}'),
)


def records() -> Area:
    """Return cases of reading a pruner's record (PRN-008)."""
    area = Area("record", "a table")
    for name, text in RECORDS:

        def answer(text: str = text) -> dict[str, Any]:
            pattern = prune.pattern_of(text)
            return {"pattern": None if pattern is None else ids(pattern)}

        answered(
            area,
            name,
            "prune.record",
            "PRN-008",
            "a record that is none, or a pattern made up or passed over",
            {"record": text},
            answer,
        )
    return area


AREAS = (records,)
