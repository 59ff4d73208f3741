"""One service's life: a small state machine that the supervisor ticks.

    down -> starting (prepare, spawn, checked until it answers, finish) -> up
    a crash while starting or up: ours -> waiting -> starting, others -> failed
    not wanted, or wanted with a newer generation: -> stopping -> down

A tick never blocks: preparing and checking run on the supervisor's threads.
"""

import signal
import subprocess
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from feature_repo.errors import VigilError
from infra.local import logs, ports, process
from infra.local.process import Identity
from infra.local.service import Service, State

CHECK_EVERY_S = 0.25
LONGEST_PAUSE_S = 30.0
LEFTOVER_S = 5.0  # for a leftover to end when asked
STEADY_S = 60.0  # a service up this long starts its pauses from the shortest again


class Life:
    def __init__(self, service: Service, log: Path, executor: Executor) -> None:
        self.service = service
        self.log = log
        self.executor = executor
        self.state = State.DOWN
        self.detail = ""
        self.crashes = 0
        self.generation: int | None = None
        self.identity: Identity | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._job: Future[str | None] | None = None
        self._since = self._deadline = self._next_check = 0.0

    def record(self) -> dict[str, Any]:
        """What `state.json` says of this service."""
        return {
            "state": str(self.state),
            "detail": self.detail,
            "crashes": self.crashes,
            "generation": self.generation,
            "process": self.identity.record() if self.identity else None,
        }

    def tick(self, wanted: int | None, may_start: bool) -> None:
        """One step. `wanted` is the generation that should run, None for none; `may_start`: its needs are up."""
        now = time.monotonic()
        if wanted != self.generation and self.state not in (State.DOWN, State.FAILED, State.WAITING):
            self._stop(now)
        match self.state:
            case State.DOWN | State.WAITING | State.FAILED:
                self._rest(wanted, may_start, now)
            case State.STARTING:
                self._start(now)
            case State.UP:
                self._watch(now)
            case State.STOPPING:
                self._await_end(now)

    # ---- states -----------------------------------------------------------------------------

    def _rest(self, wanted: int | None, may_start: bool, now: float) -> None:
        if wanted is None:
            self.state, self.generation = State.DOWN, None
            return
        again = wanted != self.generation
        if again:
            self.crashes = 0
        due = again or self.state is State.DOWN or (self.state is State.WAITING and now >= self._deadline)
        if not due or not may_start:
            return
        self.generation = wanted
        self.state, self.detail = State.STARTING, "preparing"
        self._job = self.executor.submit(self._prepare)

    def _prepare(self) -> str | None:
        self._env = dict(self.service.env())
        for port in self.service.ports:
            if not ports.is_free(port):
                self._end_leftovers(port)
            if not ports.is_free(port):
                return f"port {port} is taken by {ports.holder(port)}"
        self.service.prepare()
        self._argv = list(self.service.argv())
        return None

    def _end_leftovers(self, port: int) -> None:
        """BentoML's workers, each in a group of its own, outlive a leader that was killed and hold its port."""
        if home := self._env.get(process.MARK):
            process.stop(process.of_home(ports.listeners(port), home), LEFTOVER_S)

    def _start(self, now: float) -> None:
        if self._process is None:
            if self._job is not None and self._job.done():
                refusal = _outcome(self._job)
                self._job = None
                if refusal:
                    self._crashed(refusal, now)
                else:
                    self._spawn(now)
            return
        code = self._process.poll()
        if code is not None:
            self._crashed(f"{_ending(code)} while starting", now)
        elif self._job is not None and self._job.done():
            self.detail = _outcome(self._job) or ""
            self._job = None
            if not self.detail and now - self._since >= self.service.settle_s:
                self.state, self._since = State.UP, now
        elif self._job is None and now >= self._next_check:
            self._next_check = now + CHECK_EVERY_S
            self._job = self.executor.submit(self._check)
        if self.state is State.STARTING and now > self._deadline:
            self._end_group(signal.SIGKILL)
            limit = self.service.start_timeout_s
            self._crashed(f"did not answer within {limit:.0f} s ({self.detail or 'no answer'})", now)

    def _check(self) -> str | None:
        """Why it is not up yet; the first good answer is followed by `finish`."""
        reason = self.service.check()
        if reason is None:
            self.service.finish()
        return reason

    def _spawn(self, now: float) -> None:
        logs.rotate(self.log)
        service = self.service
        try:
            self._process = process.spawn(
                self._argv, env=self._env, cwd=service.cwd, log=self.log, account=service.account
            )
        except OSError as error:
            self._crashed(f"{self._argv[0]} could not be started: {error.strerror}", now)
            return
        self.identity = Identity.of(self._process.pid)
        self._since = self._next_check = now
        self._deadline = now + service.start_timeout_s
        self.detail = "no answer yet"

    def _watch(self, now: float) -> None:
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            if now - self._since > STEADY_S:
                self.crashes = 0
            self._crashed(_ending(code), now)

    def _crashed(self, what: str, now: float) -> None:
        """The process is gone (or never was): take its group along, then pause or give up."""
        self._end_group(signal.SIGKILL)
        self._forget()
        self.crashes += 1
        self.detail = what
        if self.service.ours:
            pause = min(LONGEST_PAUSE_S, 0.5 * 2 ** (self.crashes - 1))
            self.state, self._deadline = State.WAITING, now + pause
        else:
            self.state = State.FAILED

    def _stop(self, now: float) -> None:
        if self.state is State.STOPPING:
            return
        if self._process is None:
            if self._job is not None and not self._job.done():
                return  # its preparation is running and cannot be cut short; stop when it is over
            self._job = None
            self.state = State.DOWN
            return
        self._process.send_signal(self.service.stop_signal)
        self.state, self.detail = State.STOPPING, ""
        self._deadline = now + self.service.stop_timeout_s

    def _await_end(self, now: float) -> None:
        assert self._process is not None
        if self._process.poll() is None and now > self._deadline:
            self._end_group(signal.SIGKILL)
        if self._process.poll() is not None:
            self._end_group(signal.SIGKILL)  # a leader that ended properly has taken its group along
            self._forget()
            self.state, self.generation = State.DOWN, None

    # ---- process ----------------------------------------------------------------------------

    def _end_group(self, number: int) -> None:
        if self._process is not None:
            process.signal_group(self._process.pid, number)

    def _forget(self) -> None:
        if self._process is not None:
            self._process.wait()
        self._process = self.identity = self._job = None


def _outcome(job: "Future[str | None]") -> str | None:
    """The job's refusal, or the sentence of the error it raised: either is why the service is not up."""
    error = job.exception()
    if error is None:
        return job.result()
    if isinstance(error, VigilError):
        return f"{error.message}{f' (try: {error.remedy})' if error.remedy else ''}"
    return f"{type(error).__name__}: {error}"


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
