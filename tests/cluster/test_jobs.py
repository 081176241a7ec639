"""``ray job submit -- python jobs/….py``: the scripts run on a real head node to their end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import distvae
from distvae.data.storage import locate
from distvae.data.verify import verify
from tests.cluster.conftest import ROWS
from tests.cluster.helpers import PATIENCE_SECONDS, ROOT, descendants, until

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@dataclass(frozen=True)
class Head:
    """A head node started by ``ray start``: its dashboard and what a client needs to know."""

    url: str
    environment: dict[str, str]

    def submit(
        self, command: str, *arguments: object, name: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """``ray job submit`` of ``jobs/COMMAND.py``, followed to its end."""
        script = [sys.executable, f"jobs/{command}.py", *map(str, arguments)]
        submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit"]
        submit += ["--address", self.url, "--submission-id", f"{name or command}-job"]
        return subprocess.run(
            [*submit, "--working-dir", str(ROOT), "--", *script],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def job(self, name: str) -> dict[str, Any]:
        """What the cluster has recorded of a submitted job."""
        request = urllib.request.Request(f"{self.url}/api/jobs/{name}-job")
        request.add_header("Authorization", f"Bearer {self.environment['RAY_AUTH_TOKEN']}")
        with urllib.request.urlopen(request, timeout=30) as reply:
            return dict(json.loads(reply.read()))


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head of its own: ports, folder and token; ended by its process id alone."""
    port, dashboard, agent = free_ports(3)
    folder = tempfile.mkdtemp(prefix="rh", dir="/tmp")  # short: Ray's socket paths are long
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--port", str(port), "--dashboard-host", "127.0.0.1", "--num-cpus", "2"]
    command += ["--dashboard-port", str(dashboard), "--dashboard-agent-listen-port", str(agent)]
    command += ["--node-ip-address", "127.0.0.1", "--temp-dir", folder, "--disable-usage-stats"]
    with open(Path(folder, "head.log"), "wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{dashboard}"
    try:
        until(lambda: _answers(url, process), "the dashboard", every=0.2)
        yield Head(url, environment)
    finally:
        below = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        now = descendants(1)
        for pid in (pid for pid, title in below.items() if now.get(pid) == title):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # what --block did not take along
        shutil.rmtree(folder, ignore_errors=True)


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "ray start ended"
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=5).close()
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code == 401  # it is up, and asks for the token
    except OSError:
        return False
    raise AssertionError("the head lets everybody in")


def last_json(log: str) -> dict[str, Any]:
    """The result that ``--json`` printed, found in a job's log."""
    (line,) = re.findall(r"^\{.*\}$", log, re.MULTILINE)
    return dict(json.loads(line))


def test_the_scripts_run_as_jobs(head: Head, tmp_path: Path, data: Path) -> None:
    model = tmp_path / "m"
    shape = ("--exclude", "id", "--latent-dim", 2, "--hidden-dims", 8, "--epochs", 1)
    train = head.submit("train", data, "--model", model, *shape, "--workers", 1, "--json")
    assert train.returncode == 0, train.stdout + train.stderr
    assert last_json(train.stdout)["model_id"] == distvae.load(str(model)).id

    out, synthetic = tmp_path / "o", tmp_path / "s"
    common = ("--model", model, "--workers", 1, "--json")
    with ThreadPoolExecutor(3) as pool:  # three jobs at a time share the two CPUs
        jobs = {
            "embed": pool.submit(head.submit, "embed", data, *common, "--out", out),
            "generate": pool.submit(
                head.submit, "generate", *common, "--out", synthetic, "--rows", 500
            ),
            "evaluate": pool.submit(
                head.submit, "evaluate", data, *common, "--importance-samples", 2
            ),
        }
    figures = {}
    for name, job in jobs.items():
        done = job.result()
        assert done.returncode == 0, done.stdout + done.stderr
        figures[name] = last_json(done.stdout)
    assert figures["embed"]["rows_out"] == figures["evaluate"]["rows"] == ROWS
    assert figures["generate"]["rows_out"] == 500

    for name in ("train", "embed", "generate", "evaluate"):
        assert (head.job(name)["status"], head.job(name)["driver_exit_code"]) == ("SUCCEEDED", 0)
    for folder in (out, synthetic):
        verify(locate(str(folder)))


def test_a_job_that_fails_keeps_its_code(head: Head, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    done = head.submit("train", gone, "--model", tmp_path / "m", name="hopeless")
    assert done.returncode == 1  # Ray's own client knows no other
    job = head.job("hopeless")
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 4)
    # Once from the job, and once more in the tail of the log that Ray shows of a failed job.
    (line,) = set(re.findall(r"^error: .*$", done.stdout, re.MULTILINE))
    assert str(gone) in line
