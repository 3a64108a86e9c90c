"""Where the runs of a study are done: on this machine, or on the machines of a Ray cluster."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol, TypeVar

from monai_lossext.compare.job import Children, Job, do_job
from monai_lossext.compare.plan import Execution, StudyError

Result = TypeVar("Result")


class Executor(Protocol):
    """Does jobs; a context, at whose end no process of it is left.

    Attributes:
        slots: how many jobs it takes at once.
    """

    slots: float

    def submit(self, job: Job) -> Future[str]:
        """Take a job; the result is why it failed, or ""."""

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return what a function returns, or raise what it raises, where jobs are done."""

    def __enter__(self) -> Executor: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def make_executor(execution: Execution) -> Executor:
    """Return the executor that a study asks for.

    Raises:
        StudyError: it cannot be used here.
    """
    if execution.name == "local":
        return LocalExecutor(execution.processes, execution.threads)
    return RayExecutor(execution)


class LocalExecutor:
    """Does jobs in processes of this machine.

    Args:
        processes: jobs at the same time.
        threads: of each; None: what the environment says for one process, and an equal share of it for several.
    """

    def __init__(self, processes: int = 1, threads: int | None = None) -> None:
        self.slots: float = processes
        if threads is None and processes > 1:
            threads = max(1, available_threads() // processes)
        self.environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        self.children = Children()
        self.pool = ThreadPoolExecutor(processes)

    def submit(self, job: Job) -> Future[str]:
        """Take a job."""
        return self.pool.submit(do_job, job, self.environment, self.children)

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return what a function returns."""
        return function(*arguments)

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.children.stop()
        self.pool.shutdown(cancel_futures=True)


class RayExecutor:
    """Does jobs on a Ray cluster, which resumes them elsewhere when a worker or a machine is lost.

    All machines must see the study's, the bundle's and the data set's folders under the same paths, and have this
    package.
    """

    slots = math.inf  # the cluster keeps what it has no room for

    def __init__(self, execution: Execution) -> None:
        try:
            import ray
        except ImportError:
            raise StudyError('--executor: ray is not installed: pip install "monai_lossext[ray]"') from None
        self.ray = ray
        if execution.address is not None:
            _check_address(execution.address)
        options: dict[str, Any] = {"address": execution.address or "local", "log_to_driver": False}
        if execution.address is None:
            options |= {"include_dashboard": False}
        try:
            ray.init(**options, logging_level=logging.WARNING)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise StudyError(f"--address: cannot use the Ray cluster {execution.address}: {error}") from error
        if execution.address is None:
            self._check_resources(execution)
        self.environment = {"OMP_NUM_THREADS": str(threads_of(execution))}
        self.needs = {"num_cpus": execution.cpus, "num_gpus": execution.gpus, "max_retries": execution.retries}

    def _check_resources(self, execution: Execution) -> None:
        """Refuse what this machine has not; Ray would wait for it, as for a machine that is still to come."""
        has = self.ray.cluster_resources()
        for option, resource, wanted in (("cpus", "CPU", execution.cpus), ("gpus", "GPU", execution.gpus)):
            if wanted > has.get(resource, 0):
                self.ray.shutdown()
                most = has.get(resource, 0)
                raise StudyError(f"--{option}: expected at most {most:g}, as this machine has, got {wanted:g}")

    def submit(self, job: Job) -> Future[str]:
        """Take a job."""
        future: Future[str] = self._remote(do_job, job, self.environment).future()
        return future

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return what a function returns on some machine of the cluster."""
        try:
            found: Result = self.ray.get(self._remote(function, *arguments))
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self.ray.exceptions.RayError as error:  # a worker or a machine was lost too often
            raise StudyError(f"--executor: {type(error).__name__}: {error}") from error
        return found

    def _remote(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.ray.remote(function).options(**self.needs).remote(*arguments)

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()  # ends the workers, and with them the processes that they have started


def _check_address(address: str) -> None:
    """Refuse a host and port where nobody answers, which Ray would go on asking for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdigit():
        return  # "auto", or a client's address
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise StudyError(f"--address: cannot use the Ray cluster {address}: {error}") from error


def threads_of(execution: Execution) -> int:
    """Return how many threads a run has."""
    each = int(execution.cpus) if execution.name == "ray" else available_threads() // execution.processes
    return execution.threads or max(1, each)


def available_threads() -> int:
    """Return how many threads this process may use: OMP_NUM_THREADS, or the processors that it may run on."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    if limit.isdigit() and int(limit):
        return int(limit)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
