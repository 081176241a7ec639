"""evaluate: held-out figures over the cluster, sums per fragment, added in fragment order."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from distvae.cluster.overlap import ahead
from distvae.cluster.pool import run_fragments
from distvae.cluster.session import connect
from distvae.comparing import compare
from distvae.config import EvaluateConfig
from distvae.console import Console
from distvae.data.codec import encode
from distvae.data.flatten import flatten_schema
from distvae.data.fragments import Fragment
from distvae.data.inputs import InputFile, scan
from distvae.data.roles import require_known
from distvae.data.selection import read_batches
from distvae.engine import has_cuda
from distvae.errors import DataError
from distvae.inferring import refining_steps
from distvae.planning import DataPlan, plan_data
from distvae.saved import Model, check_columns, load, read_model
from distvae.scoring import Sums, add, metrics, score

__all__ = ["evaluate", "evaluate_plan"]

_ROWS_PER_BATCH = 8 * 1024


def evaluate_plan(config: EvaluateConfig, plan: DataPlan | None = None) -> tuple[Model, DataPlan]:
    """The model and the input; everything that can be wrong with them is told here.

    Raises:
        DataError, StorageError, UsageError: they do not fit.
    """
    model = load(config.model)
    plan = plan or plan_data(config.data, config.fragment_rows, config.where)
    check_columns(model, plan.inputs.schema, config.data)
    refining_steps(model, config.refine)
    if config.synthetic is not None:
        from distvae.fidelity.measure import require_available

        require_available()
        made = scan([config.synthetic])
        if config.target is not None:
            names = flatten_schema(made.schema).names
            whole = config.target in names  # a name may hold "="
            column = config.target if whole else config.target.partition("=")[0]
            require_known("target", [column], names)
    return model, plan


def evaluate(
    config: EvaluateConfig, console: Console, plan: DataPlan | None = None
) -> dict[str, Any]:
    """The figures of DESIGN A5 for ``config.data``.

    Raises:
        DistvaeError: model or data do not fit, or the cluster fails.
    """
    started = time.monotonic()
    model, plan = evaluate_plan(config, plan)
    arguments = {
        "model_files": read_model(config.model),
        "files": plan.inputs.files,
        "where": config.where,
        "samples": config.importance_samples,
        "seed": config.seed,
        "steps": refining_steps(model, config.refine),
        "gpus": config.gpus_per_worker,
    }
    found: dict[int, Sums] = {}
    with connect(config) as session:
        resources = session.resources(config, len(plan.fragments))
        with console.stage("evaluate", plan.rows) as advance:
            for fragment, sums in run_fragments(_Evaluator, arguments, plan.fragments, resources):
                found[fragment.index] = sums
                advance(fragment.rows)
    total: Sums = {}
    for index in sorted(found):
        total = add(total, found[index])
    if not total or total["rows"][0] == 0:
        raise DataError(
            ", ".join(config.data),
            "holds no row that can be evaluated",
            "one is needed",
            "see --where",
        )
    figures = metrics(model, total, config.importance_samples)
    if config.synthetic is not None:
        with console.stage("compare", 1) as advance:
            figures["synthetic"] = compare(model, plan.inputs, config, config.seed, config.where)
            advance(1)
    return {**figures, "model_id": model.id, "seconds": round(time.monotonic() - started, 3)}


class _Evaluator:
    """Scores whole fragments in a worker process."""

    def __init__(
        self,
        model_files: Mapping[str, bytes],
        files: Sequence[InputFile],
        where: str | None,
        samples: int,
        seed: int,
        steps: int,
        gpus: float,
    ) -> None:
        self.model = Model.from_files(
            model_files, device="cuda" if gpus > 0 and has_cuda() else "cpu"
        )
        self.files, self.where, self.samples = files, where, samples
        self.seed, self.steps = seed, steps

    def run(self, fragment: Fragment) -> Sums:
        """The sums over one fragment."""
        names = list(self.model.codec.sources)
        total: Sums = {}
        for batch in ahead(read_batches(self.files, fragment, names, _ROWS_PER_BATCH, self.where)):
            if batch.table.num_rows == 0:
                continue
            encoded = encode(self.model.codec, batch.table)
            figures = score(self.model, encoded, batch.rows, self.samples, self.seed, self.steps)
            total = add(total, figures)
        return total
