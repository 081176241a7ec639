"""What each command does once its configuration stands: run or plan it, then show the result.

Data and model directory are looked at before torch is imported, so that a mistake in them is told
at once.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

from distvae.config import (
    Config,
    EmbedConfig,
    EvaluateConfig,
    GenerateConfig,
    QuickstartConfig,
    ReportConfig,
    StatusConfig,
    TrainConfig,
    VerifyConfig,
)
from distvae.console import Console, human_bytes, human_seconds
from distvae.data.roles import Feature
from distvae.planning import plan_data, plan_features, require_model

__all__ = ["execute"]

Result = dict[str, Any]


def execute(name: str, config: Config, *, dry_run: bool, as_json: bool, quiet: bool) -> int:
    """Run command ``name`` and print its result; returns the exit code 0.

    Raises:
        DistvaeError: anything that has a contract exit code.
    """
    console = Console(quiet)
    result = plan(name, config) if dry_run else _RUN[name](config, console)
    if as_json:
        print(json.dumps(result), flush=True)
    elif name == "evaluate" or dry_run:
        print(json.dumps(result, indent=2), flush=True)
    elif not quiet:
        _print_summary(name, result)
    return 0


def plan(name: str, config: Config) -> Result:
    """The resolved options and what would be done, without doing it.

    Raises:
        DistvaeError: whatever would be wrong before the work starts.
    """
    resolved = config.model_dump(mode="json")
    planned = _PLAN[name](config) if name in _PLAN else {}
    return {"command": name, "config": resolved, "plan": planned}


def _train(config: Config, console: Console) -> Result:
    known = cast(TrainConfig, config)
    data = plan_data(known.data, known.fragment_rows, known.where)
    plan_features(data, known.include, known.exclude, known.role)
    from distvae.cluster.train import train

    return train(known, console, data)


def _embed(config: Config, console: Console) -> Result:
    known = cast(EmbedConfig, config)
    require_model(known.model)
    data = None
    if known.on_wrong_type == "error":
        data = plan_data(known.data, known.fragment_rows, known.where)
    from distvae.cluster.embed import embed

    return embed(known, console, data)


def _generate(config: Config, console: Console) -> Result:
    require_model(cast(GenerateConfig, config).model)
    from distvae.cluster.generate import generate

    return generate(cast(GenerateConfig, config), console)


def _evaluate(config: Config, console: Console) -> Result:
    known = cast(EvaluateConfig, config)
    require_model(known.model)
    data = plan_data(known.data, known.fragment_rows, known.where)
    from distvae.cluster.evaluate import evaluate

    return evaluate(known, console, data)


def _report(config: Config, console: Console) -> Result:
    from distvae.planning import require_file_place

    require_file_place("out", cast(ReportConfig, config).out)
    from distvae.reporting import write_report

    return write_report(cast(ReportConfig, config), console)


def _verify(config: Config, console: Console) -> Result:
    from distvae.data.storage import locate
    from distvae.data.verify import verify

    del console
    directory = cast(VerifyConfig, config).directory
    return {
        "directory": directory,
        "verified": True,
        **dataclasses.asdict(verify(locate(directory))),
    }


def _status(config: Config, console: Console) -> Result:
    from distvae.data.status import summarise
    from distvae.data.storage import locate

    del console
    directory = cast(StatusConfig, config).directory
    return {"directory": directory, **dataclasses.asdict(summarise(locate(directory)))}


def _quickstart(config: Config, console: Console) -> Result:
    from distvae.planning import require_parent

    require_parent("dir", cast(QuickstartConfig, config).dir)
    from distvae.quickstart import quickstart

    return quickstart(cast(QuickstartConfig, config), console)


def _plan_train(config: Config) -> Result:
    from distvae.cluster.train import train_plan

    planned = train_plan(cast(TrainConfig, config))
    columns = {feature.name: f"{feature.role} ({feature.width})" for feature in planned.features}
    memory = sum(_bytes_of(feature) for feature in planned.features) * planned.data.rows
    resolved = {name: getattr(planned.config, name) for name in _RESOLVED}
    return {
        **planned.data.describe(),
        "columns": columns,
        "likelihoods": planned.heads,
        "conditions": list(planned.conditions),
        "left_out": {column.name: column.reason for column in planned.left_out},
        "resolved_defaults": resolved,
        "bytes_in_memory_at_most": memory,
    }


_RESOLVED = (
    "hidden_dims",
    "decoder_dims",
    "kl_weight",
    "kl_warmup",
    "column_weights",
    "epochs",
    "batch_size",
    "learning_rate",
    "learning_rate_schedule",
    "prior",
    "prior_components",
    "prior_spread",
)


def _bytes_of(feature: Feature) -> int:
    """Of an encoded row, at most: a scalar and the mark of its absence are two float32."""
    return feature.width * feature.element.itemsize if feature.role == "vector" else 8


def _plan_embed(config: Config) -> Result:
    from distvae.cluster.embed import embed_job

    job = embed_job(cast(EmbedConfig, config))
    return {
        **_described(job.fragments),
        "files": len(job.arguments["files"]),
        "output_in_the_way": _in_the_way(job.config.out, job.config.mode),
        "columns": job.schema.names,
    }


def _plan_generate(config: Config) -> Result:
    from distvae.cluster.generate import generate_job

    job = generate_job(cast(GenerateConfig, config))
    return {
        **_described(job.fragments),
        "columns": job.schema.names,
        "output_in_the_way": _in_the_way(job.config.out, job.config.mode),
    }


def _plan_report(config: Config) -> Result:
    from distvae.data.inputs import scan

    known = cast(ReportConfig, config)
    require_model(known.model)
    given = {"embeddings": known.embeddings, "synthetic": known.synthetic}
    rows = {name: scan([place]).rows for name, place in given.items() if place}
    return {**rows, "data": scan(known.data).rows} if known.data else dict(rows)


def _plan_evaluate(config: Config) -> Result:
    from distvae.cluster.evaluate import evaluate_plan

    return dict(evaluate_plan(cast(EvaluateConfig, config))[1].describe())


def _in_the_way(out: str, mode: str) -> bool:
    """Whether ``--mode error`` would refuse the directory as it is now."""
    from distvae.data.storage import list_files, locate

    return mode == "error" and bool(list_files(locate(out)))


def _described(fragments: Any) -> Result:
    return {"fragments": len(fragments), "rows": sum(fragment.rows for fragment in fragments)}


_RUN: Mapping[str, Callable[[Config, Console], Result]] = {
    "train": _train,
    "embed": _embed,
    "generate": _generate,
    "evaluate": _evaluate,
    "report": _report,
    "verify": _verify,
    "status": _status,
    "quickstart": _quickstart,
}
_PLAN: Mapping[str, Callable[[Config], Result]] = {
    "train": _plan_train,
    "embed": _plan_embed,
    "generate": _plan_generate,
    "evaluate": _plan_evaluate,
    "report": _plan_report,
}


def _print_summary(name: str, result: Result) -> None:
    """The closing summary on standard output, as aligned lines."""
    flat = {key: value for key, value in result.items() if not isinstance(value, dict | list)}
    for key in ("metrics",):
        flat |= {k: v for k, v in result.get(key, {}).items() if not isinstance(v, dict | list)}
    width = max((len(key) for key in flat), default=0)
    print(f"{name}: done")
    for key, value in flat.items():
        print(f"  {key.replace('_', ' '):<{width}}  {_shown(key, value)}")
    sys.stdout.flush()


def _shown(key: str, value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int | float) and "seconds" in key:
        return human_seconds(float(value))
    if isinstance(value, int) and key == "bytes":
        return human_bytes(value)
    if isinstance(value, float):
        return f"{value:,.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
