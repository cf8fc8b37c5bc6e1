"""Makes PEFT know this tuner.

`peft.utils.register_peft_method` takes a name, a configuration class, a model class and a prefix, and fills PEFT's
tables. It demands that the enumeration `PeftType` has the name already. A tuner inside PEFT adds a line to that class;
one outside of it has to add a member to a finished enumeration, for which Python has no call. The rest is the same:
upstream, the line `SEFT = "SEFT"` in `PeftType` would replace `_add_type`.
"""

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType, register_peft_method

from seft_ports.peft.config import NAME, SeftConfig
from seft_ports.peft.model import SeftModel

__all__ = ["register"]


def register() -> None:
    """Add the type SEFT to PEFT, once in a process; do nothing if this tuner is there already.

    Raises:
        KeyError: PEFT has another tuner of this name.
    """
    if NAME in PeftType.__members__ and PEFT_TYPE_TO_TUNER_MAPPING.get(PeftType[NAME]) is SeftModel:
        return
    _add_type()
    register_peft_method(name=NAME.lower(), config_cls=SeftConfig, model_cls=SeftModel, prefix=SeftModel.prefix)


def _add_type() -> None:
    """Add a member to `PeftType`, as its metaclass adds those of the class body."""
    if NAME in PeftType.__members__:
        return
    member = str.__new__(PeftType, NAME)
    member._name_, member._value_ = NAME, NAME
    # this comes before the tables, because an enumeration refuses to set an attribute that is in its tables
    setattr(PeftType, NAME, member)
    PeftType._member_map_[NAME] = member
    PeftType._member_names_.append(NAME)
    PeftType._value2member_map_[NAME] = member
