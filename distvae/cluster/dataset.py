"""One run that writes a dataset: plan, lease, workers, receipts, limits, manifest."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

import distvae
from distvae.cluster.memory import keep_freed_memory
from distvae.cluster.nodes import prove_storage, warn_of_idle_gpus, workers_engine
from distvae.cluster.pool import FragmentWorker, run_fragments
from distvae.cluster.session import Resources, Session, connect, refuse_beyond_machine
from distvae.config import EmbedConfig, GenerateConfig
from distvae.console import Console
from distvae.data.fingerprint import fingerprint
from distvae.data.fragments import Fragment
from distvae.data.lease import Lease
from distvae.data.manifest import MODEL_KEY, VERSION_KEY, Receipt
from distvae.data.parts import PartWriter
from distvae.data.runs import Prepared, finish, running
from distvae.data.storage import Location, locate
from distvae.engine import engine_class
from distvae.errors import ClusterError, RejectedError
from distvae.saved import Model

__all__ = ["Job", "Target", "write_dataset"]

FORMAT_VERSION = 1
ODD_VALUES = ("values_unseen", "values_out_of_range", "values_infinite", "values_wrong_type")
"""Summary figures of the manifest: values that training did not know, by kind."""


@dataclass(frozen=True)
class Job:
    """What a dataset-writing command is going to do.

    Attributes:
        config: its options.
        title: shown beside the progress.
        items: what changes the bytes of the output, beside the engine (for the fingerprint).
        record: further entries of ``_run.json`` (resolved config, inputs).
        fragments: the work.
        factory: makes a worker.
        model_files: what the workers' model is made of.
        model_id: its id.
        schema: of the parts.
        arguments: of the factory, beside the ``Target``.
        max_rejected: share of rows that may be rejected.
    """

    config: EmbedConfig | GenerateConfig
    title: str
    items: Mapping[str, Any]
    record: Mapping[str, Any]
    fragments: Sequence[Fragment]
    factory: Callable[..., FragmentWorker]
    model_files: Mapping[str, bytes]
    model_id: str
    schema: pa.Schema
    arguments: Mapping[str, Any]
    max_rejected: float = 0.0

    @property
    def rows(self) -> int:
        """Rows of the whole plan."""
        return sum(fragment.rows for fragment in self.fragments)


@dataclass(frozen=True)
class Target:
    """What a worker needs to know to compute and publish parts of this run.

    Attributes:
        directory: the dataset.
        fingerprint: of the run.
        schema: of its parts.
        model_files: what the model is made of.
        model_id: its id.
        engine: the engine class that every worker must be of.
        gpus: GPUs that a worker reserves.
    """

    directory: Location
    fingerprint: str
    schema: pa.Schema
    model_files: Mapping[str, bytes]
    model_id: str
    engine: Mapping[str, str]
    gpus: float

    def open_model(self) -> Model:
        """The model, on the worker's device.

        Raises:
            ClusterError: this worker is of another engine class than the run.
        """
        mine = engine_class(self.gpus, self.engine["precision"])
        if mine != dict(self.engine):
            raise ClusterError(
                "workers",
                f"this one computes with {mine}",
                f"the run is of class {dict(self.engine)}",
                "use one image and one kind of machine",
            )
        keep_freed_memory()
        return Model.from_files(self.model_files, device=mine["device"])

    def open_part(self, fragment: Fragment) -> PartWriter:
        """The writer of one fragment's part."""
        footer = {MODEL_KEY: self.model_id, VERSION_KEY: self.engine["distvae"]}
        return PartWriter(self.directory, fragment, self.fingerprint, self.schema, footer)


def write_dataset(job: Job, console: Console) -> dict[str, Any]:
    """Run ``job`` to its end and return the figures of the dataset.

    Raises:
        OutputError: the directory is in the way, held by a live run, or of another run.
        RejectedError: more rows were rejected than allowed; what is finished stays for a resume.
        ClusterError, StorageError, DataError: as the workers tell.
    """
    started = time.monotonic()
    config = job.config
    directory = locate(config.out)
    refuse_beyond_machine(config)
    with ExitStack() as stack:
        session: Session | None = None
        # What memory a local Ray offers is known once it runs: ask before anything is written.
        if config.address or config.memory_per_worker or _inside_cluster():
            session = stack.enter_context(connect(config))
            resources = session.resources(config, len(job.fragments))
            engine = workers_engine(session, resources, config.precision)
        else:
            engine = engine_class(config.gpus_per_worker, config.precision)
        record = _record(job, engine)
        prepared, lease = stack.enter_context(running(directory, config.mode, record))
        for warning in prepared.warnings:
            console.warn(warning)
        if prepared.finished:
            console.note(f"{config.out}: finished already, nothing to do")
            return _result(job, prepared.done.values(), started, 0, 0)
        if session is None:
            session = stack.enter_context(connect(config))
            resources = session.resources(config, len(job.fragments))
        prove_storage(session, directory)
        target = Target(
            directory=directory,
            fingerprint=record["fingerprint"],
            schema=job.schema,
            model_files=job.model_files,
            model_id=job.model_id,
            engine=engine,
            gpus=config.gpus_per_worker,
        )
        warn_of_idle_gpus(console, engine, config.gpus_per_worker)
        receipts = _work(job, resources, target, prepared, lease, console)
        lease.check()
        finish(directory, record, job.fragments, receipts)
        new = sum(r.rows_in for r in receipts) - sum(r.rows_in for r in prepared.done.values())
        return _result(job, receipts, started, new, resources.workers[1])


def _inside_cluster() -> bool:
    if os.environ.get("RAY_ADDRESS"):
        return True
    ray = sys.modules.get("ray")
    return bool(ray and ray.is_initialized())


def _record(job: Job, engine: Mapping[str, str]) -> dict[str, Any]:
    items = {**job.items, "engine": dict(engine), "format": FORMAT_VERSION}
    return {
        "distvae": distvae.__version__,
        "fingerprint": fingerprint(items),
        "items": items,
        "fragments": len(job.fragments),
        "rows": job.rows,
        **job.record,
    }


def _work(
    job: Job,
    resources: Resources,
    target: Target,
    prepared: Prepared,
    lease: Lease,
    console: Console,
) -> list[Receipt]:
    """Run the fragments that are left; all receipts, old and new."""
    receipts = dict(prepared.done)
    left = [fragment for fragment in job.fragments if fragment.index not in receipts]
    if receipts:
        console.note(
            f"{job.title}: {len(receipts)} of {len(job.fragments)} fragments are done already"
        )
    arguments = {**job.arguments, "target": target}
    rejected = sum(receipt.rows_rejected for receipt in receipts.values())
    _check_rejected(job, rejected)
    with console.stage(job.title, sum(fragment.rows for fragment in left)) as advance:
        for fragment, receipt in run_fragments(job.factory, arguments, left, resources):
            lease.check()
            receipts[fragment.index] = receipt
            rejected += receipt.rows_rejected
            _check_rejected(job, rejected, receipt)
            advance(
                fragment.rows, fragments=f"{len(receipts)}/{len(job.fragments)}", rejected=rejected
            )
    return [receipts[fragment.index] for fragment in job.fragments]


def _check_rejected(job: Job, rejected: int, receipt: Receipt | None = None) -> None:
    allowed = job.max_rejected * job.rows
    if rejected <= allowed:
        return
    where = f" in {job.config.out}/_rejected/{receipt.rejected_part}" if receipt else ""
    raise RejectedError(
        "max_rejected",
        f"{rejected} of {job.rows} rows rejected so far, see the reasons{where}",
        f"at most {int(allowed)} may be",
        "mend the data, or run again with --mode resume and a larger --max-rejected",
    )


def _result(job: Job, receipts: Any, started: float, new_rows: int, workers: int) -> dict[str, Any]:
    seconds = time.monotonic() - started
    done = list(receipts)
    return {
        "out": job.config.out,
        "rows_in": sum(r.rows_in for r in done),
        "rows_out": sum(r.rows_out for r in done),
        "rows_rejected": sum(r.rows_rejected for r in done),
        **_odd_values(done),
        "parts": len(done),
        "bytes": sum(r.bytes for r in done),
        "workers": workers,
        "seconds": round(seconds, 3),
        "rows_per_second": round(new_rows / seconds, 1) if new_rows else 0.0,
    }


def _odd_values(receipts: Sequence[Receipt]) -> dict[str, int]:
    """Values that training did not know, by kind; only the kinds that occurred."""
    names = {name for receipt in receipts for name in receipt.summary if name in ODD_VALUES}
    totals = {n: int(sum(r.summary.get(n, 0.0) for r in receipts)) for n in sorted(names)}
    return {name: count for name, count in totals.items() if count}
