"""The commands ``models`` and ``compare``, which hold models and runs side by side."""

from __future__ import annotations

from typing import Any

import torch

from nngraph.cli import text
from nngraph.cli.common import at_least, tell
from nngraph.cli.options.deriving import values_of_the_user
from nngraph.cli.options.training import Compare, Models
from nngraph.drawing import draw_curves
from nngraph.graph import Architecture
from nngraph.tasks import compare_runs, describe_models
from nngraph.validation import default_architecture


def tell_models(options: Models) -> int:
    """Tell the models that there are."""
    at_least(1, batch_size=options.batch_size)
    with values_of_the_user():
        example = default_architecture(options.widths)
    models = describe_models(example, options.batch_size)
    data = {
        "example": str(example),
        "batch_size": options.batch_size,
        "threads": torch.get_num_threads(),
        "models": models,
    }
    return tell(options, data, lambda: _models_words(example, options.batch_size, models))


def _models_words(example: Architecture, size: int, models: list[dict[str, Any]]) -> str:
    rows: list[list[str]] = []
    columns = dict.fromkeys(model["column"] for model in models)
    for column in columns:
        rows.append([column or "do not read the example", "", ""])
        for model in models:
            if model["column"] == column:
                known = column is not None
                rows.append(
                    [
                        f"  {model['model']}",
                        f"{model['parameters']:,}" if known else "-",
                        f"{model['step_ms']:,.1f} ms" if known else "-",
                    ]
                )
    told = [
        f"{model['model']}\n"
        + text.pairs(
            {
                "is": model["about"],
                "respects": model["symmetry"],
                "reads": model["reads"],
                **({"does not fit": model["unfit"]} if model["unfit"] else {}),
            }
        )
        for model in models
    ]
    threads = torch.get_num_threads()
    return (
        "\n\n".join(told)
        + "\n\n"
        + text.table(["with default options", "parameters", "a training step"], rows)
        + f"\n  a step: forward and backward, {size} networks {example}, CPU time on {threads} "
        f"{'thread' if threads == 1 else 'threads'}\n"
        "  models are compared within a column only; options may change the column"
    )


def compare(options: Compare) -> int:
    """Compare finished runs."""
    tables = compare_runs(options.runs)
    data: dict[str, Any] = {"tables": [table.to_dict() for table in tables]}
    if options.figure is not None:
        with values_of_the_user():
            data["figure"] = str(draw_curves(options.figure, [t.panel for t in tables]))
    return tell(options, data, lambda: "\n\n".join(map(_table_words, data["tables"])))


def _table_words(table: dict[str, Any]) -> str:
    score = table["score"]
    rows = [
        [
            row["label"],
            str(len(row["seeds"])),
            f"{row['parameters']:,}",
            f"{row['epochs']:.4g}",
            text.duration(row["cpu_seconds"]),
            *(_spread(score, row[split][score]) for split in ("val", "test")),
        ]
        for row in table["rows"]
    ]
    head = ["model", "seeds", "parameters", "epochs", "CPU", f"{score}, validation", "test"]
    title = f"{table['task']} on {table['zoo']}\n{table['column']}"
    return f"{title}\n{text.table(head, rows)}"


def _spread(score: str, found: dict[str, float | None]) -> str:
    mean, deviation = found["mean"], found["deviation"]
    if mean is None:
        return "-"
    if score in text.SHARES:
        tail = "" if deviation is None else f" +- {100 * deviation:.1f}"
        return f"{100 * mean:.1f}{tail} %"
    return text.number(mean) + ("" if deviation is None else f" +- {deviation:.2g}")
