"""Flags of adapters."""

import dataclasses
from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import check_minimums, flag, flag_name


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapters (LoRA).

    With --lora-r the model's own weights stay as they are; low-rank updates of them and the head are trained.
    """

    lora_r: int | None = flag(None, minimum=1, help="rank of the updates; trains them and the head alone")
    lora_alpha: float | None = flag(
        None, above=0, help="the updates are multiplied by this / rank; by default twice the rank"
    )
    lora_target_modules: tuple[str, ...] = flag(
        (),
        metavar="MODULE",
        help="matrices that have one: linear_qkv, linear_proj, linear_fc1, linear_fc2, or names of the "
        "model's own, as q_proj or experts.down_proj; by default all but those of experts",
    )
    lora_dropout: float | None = flag(None, help="dropout of the updates' input; by default none")
    lora_use_rslora: bool = flag(False, help="multiply by --lora-alpha / sqrt(rank)")
    load_in_4bit: bool = flag(
        False, help="hold the model's own matrices in 4 bits (QLoRA), rounded as they are loaded"
    )

    def __post_init__(self) -> None:
        """Check values that need no weights.

        Raises:
            UserError: a value out of range.
        """
        check_minimums(self)
        if self.lora_dropout is not None and not 0 <= self.lora_dropout < 1:
            raise UserError(f"--lora-dropout must lie in [0, 1), got {self.lora_dropout}")

    @property
    def words(self) -> list[str]:
        """The flags that are given, with their values."""
        found = []
        for field in dataclasses.fields(self):
            value, name = getattr(self, field.name), flag_name(field.name)
            if isinstance(value, tuple) and value:
                found.append(" ".join((name, *value)))
            elif value not in (None, False, ()):
                found.append(name if value is True else f"{name} {value}")
        return found

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the flags that are given."""
        return tuple(word.split()[0] for word in self.words)
