"""Settings of training a metanetwork."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Precision = Literal["auto", "float32", "bf16", "fp16"]
#: Numbers among the settings: the least each may be, and whether ``None`` is one of its values.
_NUMBERS: tuple[tuple[str, float, bool], ...] = (
    ("epochs", 1, False), ("batch_size", 1, False), ("per_architecture", 1, False),
    ("accumulate", 1, False), ("warmup_steps", 0, False), ("seed", 0, False),
    ("patience", 1, True), ("learning_rate", 0.0, False), ("weight_decay", 0.0, False),
    ("clip", 0.0, True), ("cpu_seconds", 0.0, True), ("ema", 0.0, True),
)  # fmt: skip


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides how a metanetwork is trained.

    Args:
        zoo: folder of the networks; a path becomes a string.
        model: a name of ``nngraph.nn.MODELS``; ``nngraph models`` tells what each is.
        options: keyword arguments of the model, such as ``probes`` or ``dropout``.
        task: a name of ``nngraph.tasks.TASKS``.
        task_options: keyword arguments of the task, such as ``fact`` of "predict".
        epochs: passes over the training networks.
        cpu_seconds: if given, training takes so many seconds of CPU time, to within a few steps,
            and ``epochs`` is not used. The number of steps is planned anew after each epoch, so
            that such a run is not the same twice.
        batch_size: networks per step, of all processes and parts together.
        per_architecture: of a zoo of several architectures, networks of one that come in a step
            side by side.
        accumulate: parts that each process takes a step in, one after another, for less memory.
        learning_rate: at its highest, after the warm-up; it then falls to 0 along half a cosine.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises, a tenth of all at most.
        clip: largest norm of the gradient; ``None`` for any.
        ema: decay of an average of the parameters over the steps, such as 0.999, which is then
            judged and kept in place of the last ones; ``None`` for none.
        precision: "float32", "bf16" or "fp16" (mixed precision), or "auto": bf16 on CUDA for
            models that bear it, else float32.
        motion: move the images that the networks represent at random, exactly, by acting on the
            first layer; default where all networks have two inputs. Of tasks on images.
        mirror: mirror these images left to right besides, each with probability 1/2, where they are
            moved: for images whose class does not change with it, as of clothes, unlike digits.
        relabel: relabel the neurons at random in training; for models that do not know the
            symmetry.
        canonicalise: bring sine neurons to canonical sign and phase, in training and after, for
            models that read weights without knowing that symmetry.
        patience: stop after so many epochs without a better score on validation networks;
            ``None`` never.
        seed: seed of everything random.
        device: a torch device; under torchrun each process takes its own of that kind.

    Raises:
        ValueError: if a value is out of range.
    """

    zoo: str
    model: str = "message-passing"
    options: dict[str, Any] = field(default_factory=dict)
    task: str = "classify"
    task_options: dict[str, Any] = field(default_factory=dict)
    epochs: int = 60
    cpu_seconds: float | None = None
    batch_size: int = 64
    per_architecture: int = 8
    accumulate: int = 1
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    clip: float | None = 1.0
    ema: float | None = None
    precision: Precision = "auto"
    motion: bool | None = None
    mirror: bool = False
    relabel: bool = False
    canonicalise: bool = True
    patience: int | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "zoo", str(self.zoo))
        for name, least, optional in _NUMBERS:
            value = getattr(self, name)
            if value is None and optional:
                continue
            whole = isinstance(least, int)
            if (
                isinstance(value, bool)
                or not isinstance(value, int if whole else (int, float))
                or not least <= value < math.inf
            ):
                raise ValueError(
                    f"{name} is {value!r}; expected {'a whole' if whole else 'a'} number of at "
                    f"least {least}."
                )
        if self.ema is not None and self.ema >= 1:
            raise ValueError(f"ema is {self.ema!r}; expected a decay below 1, such as 0.999.")
        if self.precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise ValueError(f"precision is {self.precision!r}; expected one of {known}.")
        if self.precision == "fp16" and not str(self.device).startswith("cuda"):
            raise ValueError(
                f"precision is 'fp16' on the device {self.device!r}; float16 is for CUDA devices. "
                "Use 'bf16' or 'float32' here."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return asdict(self)
