"""The model directory before and while a training runs: what is in the way, what is noted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from distvae.cluster.session import Session
from distvae.cluster.train_plan import TrainPlan
from distvae.config import TrainConfig, parse_bytes
from distvae.data.fingerprint import first_difference
from distvae.data.lease import refuse_live_holder
from distvae.data.storage import (
    Location,
    delete_file,
    delete_tree,
    kind,
    list_files,
    make_directory,
    read_bytes,
    write_bytes,
)
from distvae.errors import OutputError, StorageError
from distvae.model.files import CONFIG, damaged, parse_json

__all__ = ["begin", "finished_already", "workplace"]

_RUN = "run.json"
_SHARE_OF_MEMORY = 0.4


def finished_already(plan: TrainPlan) -> bool:
    """Refuse a target that is in the way; True when a resume has nothing left to do.

    Raises:
        OutputError: a file, another folder, a model, or a run of other options is there.
        DataError: what is there is damaged.
    """
    target, config = plan.target, plan.config
    if kind(target) == "absent":
        return False
    if kind(target) == "file":
        raise OutputError(
            config.model, "is a file", "a model directory is needed", "choose another --model"
        )
    refuse_live_holder(plan.folder)
    whole = kind(target.child(CONFIG)) == "file"
    begun = kind(target.child("_train")) == "directory"
    if not whole and not begun:
        if list_files(target):
            raise OutputError(
                config.model,
                "is not empty and holds no model",
                "it will not be touched",
                "choose another --model",
            )
        return False
    if config.overwrite:
        return False
    if begun and config.resume:
        _noted(plan)
        return False
    if begun:
        raise OutputError(
            config.model,
            "holds a broken-off training",
            "it would be lost",
            "add --resume to go on, or --overwrite",
        )
    if config.resume:
        content = parse_json(read_bytes(target.child(CONFIG)), config.model, CONFIG)
        _refuse_other(plan, dict(content.get("training", {}).get("items", {})))
        return True
    raise OutputError(
        config.model,
        "holds a model already",
        "it will not be replaced",
        "choose another --model, or add --overwrite",
    )


@contextmanager
def workplace(plan: TrainPlan) -> Iterator[None]:
    """``_train`` for the run; one that fails before its first checkpoint leaves nothing behind."""
    fresh = [place for place in (plan.folder, plan.target) if kind(place) == "absent"]
    make_directory(plan.folder)
    try:
        yield
    except OutputError:  # the folder may be another run's
        raise
    except BaseException:
        if fresh and not _checkpoints(plan):
            with suppress(StorageError):
                for place in fresh:
                    delete_tree(place)
        raise


def begin(plan: TrainPlan, session: Session) -> dict[str, Any]:
    """Write or compare ``_train/run.json``; what of it a resume must keep.

    Raises:
        OutputError: a resume of a run that was begun with other options.
        DataError: the note is damaged.
    """
    note = _noted(plan) if plan.config.resume else None
    if note is not None:
        return note
    for checkpoint in _checkpoints(plan):
        delete_file(checkpoint)
    note = {"items": plan.items, "bytes_for_rows": _bytes_for_rows(plan.config, session)}
    text = json.dumps(note, indent=1, sort_keys=True) + "\n"
    write_bytes(plan.folder.child(_RUN), text.encode())
    return note


def _checkpoints(plan: TrainPlan) -> list[Location]:
    found = list_files(plan.folder) if kind(plan.folder) == "directory" else []
    return [plan.folder.child(f.relative) for f in found if f.relative.endswith(".safetensors")]


def _noted(plan: TrainPlan) -> dict[str, Any] | None:
    """What ``_train/run.json`` says, None if it is not there.

    Raises:
        OutputError: it was begun with other options.
        DataError: it is damaged.
    """
    place = plan.folder.child(_RUN)
    if kind(place) != "file":
        return None
    note = parse_json(read_bytes(place), plan.folder.uri, _RUN)
    if not isinstance(note.get("items"), dict) or "bytes_for_rows" not in note:
        raise damaged(plan.folder.uri, _RUN, "is not the note of a training")
    _refuse_other(plan, note["items"])
    return note


def _bytes_for_rows(config: TrainConfig, session: Session) -> int:
    """Memory, over all workers, that training rows may take; more rows than fit are streamed."""
    if config.memory_per_worker:
        fewest = 1 if config.workers == "auto" else int(config.workers.partition("..")[0])
        return int(parse_bytes(config.memory_per_worker) * fewest * _SHARE_OF_MEMORY)
    return int(session.totals.get("memory", 8 << 30) * _SHARE_OF_MEMORY)


def _refuse_other(plan: TrainPlan, items: Mapping[str, Any]) -> None:
    difference = first_difference(items, plan.items)
    if difference:
        raise OutputError(
            plan.config.model,
            f"was begun with other options: {difference}",
            "a resume needs the same",
            "give the old options, or --overwrite",
        )
