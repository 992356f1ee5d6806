"""Runs side by side: a table per task, zoo and column, with the spread over seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nngraph.drawing import Panel
from nngraph.errors import DataFileError
from nngraph.settings import TrainSettings
from nngraph.tasks.report import Report, finite
from nngraph.tasks.run_folder import CONFIG, METRICS, REPORT, read_settings

#: Settings that do not make two runs different in what they try.
_ASIDE = ("zoo", "seed", "device")
_COLUMNS = ("generic weights-only", "activation-structured weights-only", "with probes")


@dataclass(frozen=True)
class FinishedRun:
    """A run that is done: its folder, settings, report and metrics of each epoch."""

    path: Path
    settings: TrainSettings
    networks: str
    report: Report
    history: list[dict[str, Any]]

    @classmethod
    def read(cls, path: str | Path) -> FinishedRun:
        """Read a run that is finished."""
        path = Path(path)
        settings, config = read_settings(path)
        if not (path / REPORT).exists():
            raise DataFileError(
                f"{path} holds a run that is not finished; give its command again to end it."
            )
        report = Report.from_json((path / REPORT).read_bytes(), str(path / REPORT))
        try:
            lines = (path / METRICS).read_text().splitlines()
            history = [dict(json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError) as error:
            raise DataFileError(f"{path / METRICS} cannot be read: {error}.") from None
        networks = json.dumps(config.get("shards"))
        return cls(path, settings, networks, report, history)


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed alone, labelled by model and settings in which rows differ."""

    label: str
    runs: tuple[FinishedRun, ...]

    def spread(self, split: str, measure: str) -> tuple[float, float | None]:
        """Return mean and standard deviation over the seeds; no deviation of one run."""
        values = [getattr(run.report, split).get(measure, math.nan) for run in self.runs]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return statistics.fmean(values), deviation


@dataclass(frozen=True)
class Comparison:
    """Runs that may be compared: one task, one zoo, one access; best on validation first."""

    task: str
    zoo: str
    access: str
    score: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """What the table is about."""
        return f"{self.task} on {self.zoo}: {self.access}"

    @property
    def panel(self) -> Panel:
        """The learning curves of its runs, to be drawn."""
        curves = [(row.label, [run.history for run in row.runs]) for row in self.rows]
        return Panel(self.title, self.score, curves)

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain data."""
        rows = []
        for row in self.rows:
            reports = [run.report for run in row.runs]
            measures = {
                split: {
                    name: dict(zip(("mean", "deviation"), row.spread(split, name), strict=True))
                    for name in getattr(reports[0], split)
                }
                for split in ("val", "test")
            }
            rows.append(
                {
                    "label": row.label,
                    "model": reports[0].model,
                    "parameters": reports[0].parameters,
                    "runs": [str(run.path) for run in row.runs],
                    "seeds": [run.settings.seed for run in row.runs],
                    "epochs": statistics.fmean(r.epochs for r in reports),
                    "cpu_seconds": statistics.fmean(r.cpu_seconds for r in reports),
                    **measures,
                }
            )
        data: dict[str, Any] = finite({**vars(self), "rows": rows})
        return data


def compare_runs(paths: Sequence[str | Path]) -> list[Comparison]:
    """Bring finished runs into tables: those of another task, zoo or column are never mixed.

    Args:
        paths: folders of runs, or folders that hold such.

    Raises:
        DataFileError: if a folder holds no finished run, a run is given twice, or two runs are
            equal in their seed too.
    """
    runs = [FinishedRun.read(path) for path in _folders(paths)]
    tables: dict[tuple[str, ...], list[FinishedRun]] = {}
    for run in runs:
        options = json.dumps(run.settings.task_options, sort_keys=True)
        key = (run.settings.task, options, run.networks, run.report.access)
        tables.setdefault(key, []).append(run)
    order = sorted(tables, key=lambda key: (key[:3], _COLUMNS.index(key[3])))
    return [_table(tables[key]) for key in order]


def _folders(paths: Sequence[str | Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for given in map(Path, paths):
        inside = [given] if (given / CONFIG).exists() else sorted(given.glob(f"*/{CONFIG}"))
        for path in [p.parent if p.name == CONFIG else p for p in inside] or [given]:
            if path.resolve() in found:
                raise DataFileError(f"the run {path} is given twice.")
            found[path.resolve()] = path
    return list(found.values())


def _table(runs: list[FinishedRun]) -> Comparison:
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_tried(run.settings), sort_keys=True), []).append(run)
    for same in groups.values():
        seeds = [run.settings.seed for run in same]
        if len(set(seeds)) < len(seeds):
            raise DataFileError(
                f"{same[0].path} and {same[1].path} are runs of one seed and equal settings; "
                "leave one of them out."
            )
    tried = [_tried(same[0].settings) for same in groups.values()]
    names = sorted({name for one in tried for name in one} - {"model"})
    differing = [n for n in names if len({json.dumps(one.get(n)) for one in tried}) > 1]
    rows = []
    for same, one in zip(groups.values(), tried, strict=True):
        shown = {name.removeprefix("options."): one[name] for name in differing if name in one}
        label = ", ".join([str(one["model"]), *_words(shown)])
        rows.append(Row(label, tuple(sorted(same, key=lambda run: run.settings.seed))))
    settings, report = runs[0].settings, runs[0].report
    rows.sort(key=lambda row: -_or_worst(row.spread("val", report.score)[0]))
    task = " ".join([settings.task, *_words(settings.task_options)])
    return Comparison(task, settings.zoo, report.access, report.score, tuple(rows))


def _tried(settings: TrainSettings) -> dict[str, Any]:
    """Return what a run tries, by name; options of the model among the rest."""
    plain = {k: v for k, v in settings.to_dict().items() if k not in _ASIDE}
    options = plain.pop("options")
    return {**plain, **{f"options.{name}": value for name, value in options.items()}}


def _words(values: dict[str, Any]) -> list[str]:
    return [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items()]


def _or_worst(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
