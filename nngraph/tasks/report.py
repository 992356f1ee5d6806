"""What comes out of a training run, as plain data."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from nngraph.errors import DataFileError


def finite(data: Any) -> Any:
    """Return plain data with ``None`` for NaN and infinities, which JSON does not know."""
    if isinstance(data, dict):
        return {name: finite(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


@dataclass(frozen=True)
class Report:
    """What came out of a training run.

    Attributes:
        task, model: their names; ``access`` what the model may use.
        parameters: number of trainable parameters.
        steps, epochs: done.
        seconds, cpu_seconds: spent in training, wall clock and all threads of this process (under
            ``torchrun`` of rank 0); all sessions of a resumed run together.
        score: name of the measure by which the parameters were chosen.
        val, test: measures by name, of the parameters with the best score on validation networks;
            NaN where one is not defined.
        details: more about the test networks, as the task tells it, such as a confusion matrix.
    """

    task: str
    model: str
    access: str
    parameters: int
    steps: int
    epochs: int
    seconds: float
    cpu_seconds: float
    score: str
    val: dict[str, float]
    test: dict[str, float]
    details: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, with ``None`` for numbers that JSON does not know."""
        data: dict[str, Any] = finite(asdict(self))
        return data

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Report:
        """Read a report file."""
        kinds: dict[str, Any] = {"int": int, "float": (int, float), "str": str}
        try:
            data = json.loads(text)
            values = {item.name: data[item.name] for item in fields(cls)}
            for item in fields(cls):
                if not isinstance(values[item.name], kinds.get(str(item.type), dict)):
                    raise ValueError(f"{item.name} is {values[item.name]!r:.80}")
            for name in ("val", "test"):
                measures = {k: math.nan if v is None else v for k, v in values[name].items()}
                if not isinstance(measures.get(values["score"]), (int, float)):
                    raise ValueError(f"{name} has no number {values['score']!r:.80}")
                values[name] = measures
            return cls(**values)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataFileError(f"{where} is not a training report: {error}.") from None
