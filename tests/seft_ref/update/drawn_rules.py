"""Any rule that chapter 8 allows, with an optimizer that it goes together with."""

from hypothesis import strategies as st

from seft_ref.update.optimizers import AdamW, Sgd, Sm3, SpielAdamW
from seft_ref.update.rules import Rule

CRITERIA = ["magnitude", "change", "fisher", "weight", "random"]


@st.composite
def rules(draw):
    """A rule and an optimizer that go together (EVT-012)."""

    def pick(*names):
        return draw(st.sampled_from(names))

    scope = pick("matrix", "row", "group", "model")
    first_step = scope == "matrix" and draw(st.booleans())
    grow = pick(*(("gradient", "absolute", "fisher") if first_step else ALL_GROW))
    optimizer = Sm3() if grow == "moments" else pick(AdamW(), AdamW(weight_decay=0.5), SpielAdamW(), Sgd(), Sm3())
    group = scope == "group"
    drops = "slot" if group else pick("slot", "slot", "slot", "weight")
    everywhere = first_step or group or drops == "weight"
    return optimizer, Rule(
        drop=pick(*CRITERIA),
        drops=drops,
        grow=grow,
        grow_scope="anywhere" if everywhere else pick("anywhere", "anywhere", "active"),
        regrow=draw(st.booleans()),
        candidates="first-step" if first_step else "all",
        moments="zero" if isinstance(optimizer, Sm3) else pick("zero", "seeded"),
        # test_GROW_006 looks at the adapts left out here
        adapt=pick(*_ADAPT, *(() if first_step else _NOT_OF_FIRST_STEP)),
        adapts="always" if group else pick("always", "always", "always", "end", "never"),
        counts="support" if group else pick("support", "support", "values"),
        exempt="new" if group else pick("new", "none", *(() if scope == "row" else ("slots",))),
        scope=scope,
    )


_ADAPT = ("sensitivity", "absolute", "fisher", "token-fisher", "magnitude", "random")
_NOT_OF_FIRST_STEP = ("activation", "curvature")
ALL_GROW = ("gradient", "absolute", "fisher", "moments", "curvature", "random")
