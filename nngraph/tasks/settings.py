"""What a training run is: settings in, report out, both plain data."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from nngraph.errors import DataFileError

__all__ = ["Report", "TrainSettings"]


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides how a metanetwork is trained.

    Args:
        zoo: folder of the networks; a path becomes a string.
        model: such as "message-passing", "symmetric", "flat" or "probe"; see ``nngraph.nn.MODELS``.
        options: keyword arguments of the model, such as ``probes`` or ``dropout``.
        epochs: passes over the training networks.
        cpu_seconds: if given, training takes so many seconds of CPU time, to within a few steps,
            and ``epochs`` is not used. The number of steps is planned anew after each epoch, so
            that such a run is not the same twice.
        batch_size: networks per step.
        learning_rate: at its highest, after the warm-up; it then falls to 0 along half a cosine.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises.
        clip: largest norm of the gradient.
        motion: move the images that the networks represent at random, exactly, by acting on the
            first layer; networks of two inputs only.
        relabel: relabel the neurons at random in training; for models that do not know the
            symmetry.
        canonicalise: bring sine neurons to canonical sign and phase, in training and after, for
            models that read weights without knowing that symmetry.
        patience: stop after so many epochs without a better validation accuracy; ``None`` never.
        seed: seed of everything random.
        device: a torch device; on CUDA training runs in bfloat16 where that is safe.

    Raises:
        ValueError: if a number is out of range.
    """

    zoo: str
    model: str = "message-passing"
    options: dict[str, Any] = field(default_factory=dict)
    epochs: int = 60
    cpu_seconds: float | None = None
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    clip: float = 1.0
    motion: bool = True
    relabel: bool = False
    canonicalise: bool = True
    patience: int | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "zoo", str(self.zoo))
        for name, least in (
            ("epochs", 1), ("batch_size", 1), ("warmup_steps", 0), ("learning_rate", 0.0),
            ("weight_decay", 0.0), ("clip", 0.0), ("seed", 0), ("patience", 1),
            ("cpu_seconds", 0.0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is None and name in ("patience", "cpu_seconds"):
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

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """What came out of a training run.

    Attributes:
        model: name of the model; ``column`` what it may use.
        parameters: number of trainable parameters.
        steps, epochs: done.
        seconds, cpu_seconds: spent in training, wall clock and all threads; all sessions of a
            resumed run together.
        val_accuracy, test_accuracy: of the parameters with the best validation accuracy.
        confusion: test networks of class i (row) that were taken for class j.
    """

    model: str
    column: str
    parameters: int
    steps: int
    epochs: int
    seconds: float
    cpu_seconds: float
    val_accuracy: float
    test_accuracy: float
    confusion: list[list[int]]
    class_names: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Report:
        """Read a report file.

        Raises:
            DataFileError: if it is not one.
        """
        kinds = {"int": int, "float": (int, float), "str": str}
        try:
            data = json.loads(text)
            values = {item.name: data[item.name] for item in fields(cls)}
            for item in fields(cls):
                kind = kinds.get(str(item.type), list)
                if not isinstance(values[item.name], kind):  # type: ignore[arg-type]
                    raise ValueError(f"{item.name} is {values[item.name]!r:.80}")
            return cls(**values)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataFileError(f"{where} is not a training report: {error}.") from None
