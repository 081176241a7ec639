"""The ``distvae`` command: options from the configs, one line per error, contract exit codes."""

from __future__ import annotations

import json
import os
import signal
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import rich_click as click
from pydantic.fields import FieldInfo

from distvae.config import COMMANDS, Config, JobConfig, build
from distvae.errors import DistvaeError, UsageError

__all__ = ["main", "run_job"]

_POSITIONAL = {"data": "DATA", "directory": "DIR"}
_INTERRUPTED, _FAULT = 130, 70
_HELP = {
    "quickstart": "Run the whole story on real digits: train, embed, generate, evaluate, report.",
    "train": "Fit the codec and train a VAE data-parallel; writes the model directory.",
    "embed": "Encode every row of DATA; writes (mu, sigma) as a Parquet dataset.",
    "generate": "Write synthetic rows in the training table's own schema.",
    "evaluate": "Held-out metrics of a model on DATA, as JSON on standard output.",
    "report": "Write one self-contained HTML page of pictures and figures of MODEL.",
    "verify": "Re-check an output dataset against its manifest, to the byte.",
    "status": "Say what is done and what is left of an output dataset.",
}
_EXIT_CODES = (
    "Exit codes: 0 done, 2 usage, 3 data does not fit, 4 storage, 5 output in the way, "
    "6 too many rows rejected, 7 verify found damage, 8 cluster, 70 a fault of ours, "
    "130 interrupted."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's own) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _die_cleanly_on_sigterm()
    try:
        result = _root().main(args=arguments, prog_name="distvae", standalone_mode=False)
        return int(result or 0)
    except click.UsageError as error:
        _print_error(_click_message(error))
        return 2
    except DistvaeError as error:
        if "--debug" in arguments:
            _print_traceback()
        _print_error(str(error))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _print_error(
            "interrupted: what is finished is kept; run it again with --mode resume or --resume"
        )
        return _INTERRUPTED
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter's last flush needs a target
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort: a fault of ours, told in one line
        if "--debug" in arguments:
            _print_traceback()
        text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        _print_error(
            f"{text} (a fault of distvae; run again with --debug and report the traceback)"
        )
        return _FAULT


def run_job(command: str) -> NoReturn:
    """``python jobs/COMMAND.py …`` is ``distvae COMMAND …``: run it and exit with its code."""
    sys.exit(main([command, *sys.argv[1:]]))


def _print_error(message: str) -> None:
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr, flush=True)


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def _click_message(error: click.UsageError) -> str:
    name = f"distvae {error.ctx.info_name}" if error.ctx and error.ctx.parent else "distvae"
    return f"{' '.join(error.format_message().split())} See {name} --help"


def _die_cleanly_on_sigterm() -> None:
    """A job that is stopped ends like an interrupted one: leases are given back, code 130."""

    def interrupt(number: int, frame: object) -> NoReturn:
        del number, frame
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: the caller owns the signals
        return


def _root() -> click.RichGroup:
    import distvae

    groups: Any = {f"distvae {name}": _groups(cls) for name, cls in COMMANDS.items()}
    click.rich_click.OPTION_GROUPS = groups
    group = click.RichGroup(name="distvae", help=f"{distvae.__doc__}\n\n{_EXIT_CODES}")
    group.no_args_is_help = False  # nothing given is a mistake like others: one line, code 2
    group = click.version_option(distvae.__version__, prog_name="distvae")(group)
    for name, cls in COMMANDS.items():
        group.add_command(_command(name, cls))
    group.add_command(_schema_command())
    return group


def _groups(cls: type[Config]) -> list[dict[str, Any]]:
    """Options in two panels: the command's own first, those of every job after."""
    shared = [name for name in JobConfig.model_fields if name in cls.model_fields]
    own = [name for name in cls.model_fields if name not in shared]
    groups = [{"name": "This command", "options": [_flag(name) for name in own]}]
    if shared:
        groups.append({"name": "Workers", "options": [_flag(name) for name in shared]})
    return [*groups, {"name": "Every command", "options": [o.opts[0] for o in _common_options()]}]


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _common_options() -> list[click.Option]:
    return [
        click.Option(["--config"], metavar="FILE.yaml", help="Read the options from a YAML file."),
        click.Option(
            ["--set", "assignments"],
            multiple=True,
            metavar="KEY=VALUE",
            help="Set one option, such as seed=3.",
        ),
        click.Option(
            ["--dry-run"],
            is_flag=True,
            help="Print the resolved options and the plan; start nothing.",
        ),
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            help="Last line of standard output: the result as JSON.",
        ),
        click.Option(["--quiet"], is_flag=True, help="No progress, only warnings and errors."),
        click.Option(["--debug"], is_flag=True, help="Show tracebacks."),
    ]


def _command(name: str, cls: type[Config]) -> click.RichCommand:
    params: list[click.Parameter] = []
    for field, info in cls.model_fields.items():
        if field in _POSITIONAL and not (name == "report" and field == "data"):
            many = field == "data"
            params.append(
                click.Argument(
                    [field], nargs=-1 if many else 1, required=False, metavar=_shown(field, many)
                )
            )
        elif name == "report" and field == "model":
            params.append(click.Argument(["model"], required=False, metavar="MODEL"))
        else:
            params.append(_option(field, info))
    if name == "report":  # so that `--data A B C` works: what follows MODEL is data
        params.append(click.Argument(["more_data"], nargs=-1, required=False, metavar=""))
    return click.RichCommand(
        name=name,
        params=[*params, *_common_options()],
        callback=_callback(name, cls),
        help=f"{cls.__doc__}",
        short_help=_HELP[name],
        epilog=_EXIT_CODES,
    )


def _shown(field: str, many: bool) -> str:
    return _POSITIONAL[field] + ("..." if many else "")


def _option(field: str, info: FieldInfo) -> click.Option:
    """A click option that hands the raw text on: the config alone judges values."""
    kind = info.annotation
    default = info.default
    shown = "" if default in (None, "", (), {}, False) else f" [default: {_plain(default)}]"
    names = [_flag(field), field]
    if kind is bool:
        return click.Option(names, is_flag=True, default=None, help=f"{info.description}")
    many = _takes_many(info)
    return click.Option(
        names,
        multiple=many,
        default=None,
        metavar=_metavar(field, info),
        help=f"{info.description}{shown}",
    )


def _plain(default: object) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _takes_many(info: FieldInfo) -> bool:
    kind = info.annotation
    if typing.get_origin(kind) is dict:
        return True
    return typing.get_origin(kind) is tuple and typing.get_args(kind)[0] is str


def _metavar(field: str, info: FieldInfo) -> str:
    kind = info.annotation
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(typing.get_args(kind))
    if typing.get_origin(kind) is dict:
        return {"likelihood": "COL=HEAD", "role": "COL=ROLE"}.get(field, "COL=VALUE")
    if field in ("key", "keep", "include", "exclude", "color", "condition_on", "target"):
        return "COL"
    plain = {int: "N", float: "NUMBER", str: "TEXT"}
    for candidate in (kind, *typing.get_args(kind)):
        if candidate in plain:
            return plain[candidate]
    return "N,N"


def _callback(name: str, cls: type[Config]) -> Callable[..., int]:
    def run(**values: Any) -> int:
        common = {
            key: values.pop(key)
            for key in ("config", "assignments", "dry_run", "as_json", "quiet", "debug")
        }
        more = values.pop("more_data", ())
        if more:
            values["data"] = (*(values.get("data") or ()), *more)
        config = build(cls, _merge(cls, common["config"], values, common["assignments"]))
        from distvae.commands import execute

        return execute(
            name, config, **{key: common[key] for key in ("dry_run", "as_json", "quiet")}
        )

    return run


def _merge(
    cls: type[Config], file: str | None, options: Mapping[str, Any], assignments: Sequence[str]
) -> dict[str, Any]:
    """Config file, then options, then ``--set``: the later one wins."""
    values: dict[str, Any] = _read_yaml(file) if file else {}
    values.update({key: value for key, value in options.items() if value not in (None, ())})
    for assignment in assignments:
        _assign(cls, values, assignment)
    return values


def _read_yaml(file: str) -> dict[str, Any]:
    import yaml

    try:
        with open(file, encoding="utf-8") as stream:
            values = yaml.safe_load(stream)
    except OSError as error:
        raise UsageError(
            f"--config {file}", f"cannot be read ({error.strerror})", "", "check the path"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise UsageError(f"--config {file}", f"is not YAML ({text})", "", "mend the file") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(
            f"--config {file}", f"holds a {type(values).__name__}", "must be KEY: VALUE lines"
        )
    return {str(key).replace("-", "_"): value for key, value in values.items()}


def _assign(cls: type[Config], values: dict[str, Any], assignment: str) -> None:
    import yaml

    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise UsageError(
            "--set", f"got {assignment!r}", "must be KEY=VALUE", "for example --set seed=3"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    key, _, sub = path.partition(".")
    key = key.replace("-", "_")
    if not sub:
        values[key] = value
        return
    if (
        key not in cls.model_fields
        or typing.get_origin(cls.model_fields[key].annotation) is not dict
    ):
        raise UsageError(
            f"--set {path}", "has no parts", "only COLUMN=VALUE options do", "see --help"
        )
    present = values.get(key) or {}
    if not isinstance(present, dict):
        present = dict(str(item).rsplit("=", 1) for item in present)
    values[key] = {**present, sub: value}


def _schema_command() -> click.RichCommand:
    def run(command: str) -> int:
        if command not in COMMANDS:
            raise UsageError("COMMAND", f"got {command!r}", f"must be one of {', '.join(COMMANDS)}")
        print(json.dumps(COMMANDS[command].model_json_schema(), indent=2))
        return 0

    return click.RichCommand(
        name="schema",
        params=[click.Argument(["command"])],
        callback=run,
        help="Print the JSON Schema of a command's config file.",
    )
