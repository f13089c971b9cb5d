"""The thread that owns Triton: it starts it, keeps it answering, and stops it."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from spanqa import contract
from spanqa_server.control import Control
from spanqa_server.drain import drain
from spanqa_server.environment import Triton
from spanqa_server.errors import RepositoryError, ServerError, ServerLostError, StartTimeoutError
from spanqa_server.launch import TritonProcess, failure_in
from spanqa_server.processes import end_orphans
from spanqa_server.repository import ModelFolder, models_of, served_version
from spanqa_server.restarts import Restarts
from spanqa_server.rollover import ready_versions, roll_over
from spanqa_server.settings import ServerSettings
from spanqa_server.shared_memory import PREFIX, RUN_FOLDER_PREFIX, SHARED_MEMORY, RegionPrefix, sweep
from spanqa_server.view import View
from spanqa_server.watch import Loss, Watch

POLL_S = 0.1
OPENING_S = 2.0
"""Where a port is taken, Triton answers over gRPC a moment before it gives up; its metrics come last, unless off."""
VIEW = "model_repository"


class Supervisor(threading.Thread):
    """Runs one Triton from its start to its end.

    All of Triton's starts happen in this thread, because the kernel stops Triton when the thread that started it ends.

    Args:
        settings: Where to listen, with every port chosen.
        triton: The installed Triton.
        models: The models to load.
        report: Called with one line for each thing worth telling.
    """

    def __init__(
        self,
        settings: ServerSettings,
        triton: Triton,
        models: Sequence[ModelFolder],
        report: Callable[[str], None],
    ) -> None:
        super().__init__(name="spanqa-supervisor", daemon=True)
        self.ready = threading.Event()
        self.stopping = threading.Event()
        self.abandoned = threading.Event()
        self.reloading = threading.Event()
        self.failure: ServerError | None = None
        self.n_recoveries = 0
        self.n_reloads = 0
        self._settings = settings
        self._triton = triton
        self._models = models
        self._tell = report
        self._restarts = Restarts()
        self._ready_at = 0.0

    @property
    def triton_pid(self) -> int:
        """Process id of the running Triton; that of the last one between two."""
        return self._process.pid

    def run(self) -> None:
        """Run Triton until it is asked to stop, or is lost for good."""
        try:
            self._run_in_folder()
        except ServerError as error:
            self.failure = error
        except Exception as error:
            self.failure = ServerLostError(f"the supervisor failed: {type(error).__name__}: {error}")
            raise
        finally:
            # Whoever waits for the start must not wait for ever.
            self.ready.set()

    def _run_in_folder(self) -> None:
        end_orphans(PREFIX)
        sweep()
        try:
            folder = Path(tempfile.mkdtemp(prefix=RUN_FOLDER_PREFIX))
        except OSError as error:
            raise ServerError(
                f"there is no folder for temporary files ({error.strerror}): mount one that can be written at /tmp, or "
                "name it in TMPDIR"
            ) from error
        try:
            self._regions = RegionPrefix(folder)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise ServerError(f"{SHARED_MEMORY} cannot be written: {error.strerror}: allow it to this user") from error
        try:
            self._view = View(folder / VIEW, self._settings.repository)
            self._run(folder)
        finally:
            self._regions.release()
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, folder: Path) -> None:
        n_run = 0
        while not self.stopping.is_set():
            run_folder = folder / f"run{n_run}"
            run_folder.mkdir()
            self._choose_models()
            self._process = TritonProcess(
                self._settings, self._triton, self._models, self._view, run_folder, self._regions
            )
            if self._process.is_secret_shown and n_run == 0:
                self._report(
                    "this machine forbids ptrace(2): the secret that locks Triton's interfaces stands in the list of "
                    "processes, where other users of this machine can read it"
                )
            try:
                loss = self._run_once(is_first=n_run == 0)
            finally:
                self._process.kill()
                shutil.rmtree(run_folder, ignore_errors=True)
            if loss is not None:
                self._report(self._restarts.counted(loss, self._ready_at))
            n_run += 1

    def _report(self, line: str) -> None:
        self._tell(self._view.in_repository(line))

    def _choose_models(self) -> None:
        """Show Triton what answered before; only where that is gone, the newest."""
        if not self._view.has(self._models):
            version = served_version(self._models)
            self._models = models_of(self._settings.repository)
            self._report(
                f"version {version} is no longer in {self._settings.repository} as it was loaded: starting its newest, "
                f"version {served_version(self._models)}"
            )
        self._view.show(self._models)

    def _run_once(self, *, is_first: bool) -> Loss | None:
        """Wait until the started Triton answers, keep it answering, and stop it when asked to.

        Returns:
            Why it must be started anew, or None where it was stopped.
        """
        with self._process.control(self.stopping) as control:
            try:
                self._wait_until_ready(control)
            except ServerError as error:
                if is_first:
                    raise
                return Loss(cause=str(error), is_death=False)
            if self.stopping.is_set():
                return None
            self.ready.set()
            self._ready_at = time.monotonic()
            if not is_first:
                self.n_recoveries += 1
                self._report("Triton runs again")
            return self._watch(control)

    def _wait_until_ready(self, control: Control) -> None:
        start, answers_since = time.monotonic(), 0.0
        while not self.stopping.is_set():
            self._process.attend_log()
            if failure := failure_in(self._process.log()):
                raise failure
            if not self._process.is_running():
                raise ServerLostError(self._process.last_words())
            now = time.monotonic()
            answers_since = (answers_since or now) if control.is_ready() else 0.0
            if answers_since and (control.has_every_endpoint() or now - answers_since > OPENING_S):
                break
            if now - start > self._settings.start_timeout_s:
                raise StartTimeoutError(
                    f"the models were not ready within {self._settings.start_timeout_s:g} s: give them more time with "
                    "--start-timeout-s, or see what Triton says with --verbose"
                )
            time.sleep(POLL_S / 2)
        control.expect(time.monotonic() - start)
        problem = None if self.stopping.is_set() else control.ask_canary(self._settings.start_timeout_s).problem
        if problem:
            raise ServerLostError(f"every model is loaded, but the first question was not answered: {problem}")

    def _watch(self, control: Control) -> Loss | None:
        watch = Watch(
            self._process, control, self._settings, self._report, has_build=lambda: self._view.has(self._models)
        )
        try:
            while not self.stopping.wait(POLL_S):
                self._process.attend_log()
                if not self._process.is_running():
                    return Loss(cause=self._process.last_words(), is_death=True)
                loss = watch.look()
                self.n_recoveries += watch.take_recoveries()
                if loss and not self.stopping.is_set():
                    return loss
                if self.reloading.is_set():
                    self._reload(control)
                    watch.rescan()
            self._drain_and_stop(control, watch)
            return None
        finally:
            self._process.kill()
            self._process.attend_log()  # the last words too
            watch.close()

    def _reload(self, control: Control) -> None:
        """Roll to what lies on disk now; whatever is wrong with it, the models that answer go on."""
        self.reloading.clear()
        try:
            self._roll_over(control, models_of(self._settings.repository))
        except ServerError as error:
            self._report(f"not reloaded in full: {error}")
        self.n_reloads += 1

    def _roll_over(self, control: Control, models: Sequence[ModelFolder]) -> None:
        folder, start = self._settings.repository, time.monotonic()
        old, version = served_version(self._models), served_version(models)
        is_there = self._view.has(self._models)
        if old == version and not is_there:
            raise RepositoryError(
                f"version {version} of {folder} is not the version {version} that answers, which goes on: build once "
                "more into that folder and reload, or start the server anew"
            )
        if not is_there:
            self._report(
                f"version {old} answers but is no longer in {folder}, where a build leaves one version beside its own: "
                f"questions fail until version {version} is loaded; reload after every build"
            )
        try:
            roll_over(control, self._view, models, timeout_s=self._settings.drain_timeout_s)
            self._models = models
        except ServerError:
            # The entry may have changed hands before something else failed.
            if version in ready_versions(control).get(contract.QUESTION_ANSWERING, ()):
                self._models = models
            if not control.is_loading:  # a load that a stop has met still reads what is shown
                self._view.show(self._models)
            raise
        self._report(f"version {version} of {folder} answers, loaded in {time.monotonic() - start:.1f} s")

    def _drain_and_stop(self, control: Control, watch: Watch) -> None:
        names = [model.name for model in self._models]

        def is_abandoned() -> bool:
            return self.abandoned.is_set() or watch.is_entry_dead() or not self._process.is_running()

        drained = drain(control, names, timeout_s=self._settings.drain_timeout_s, is_abandoned=is_abandoned)
        if not drained.all_answered:
            self._report("stopped before every accepted question was answered")
        watch.end_retired()
        # Triton would wait for a load, and for what it counts wrongly; killed it will be in any case.
        if not control.is_loading and not drained.is_miscounted:
            self._process.stop()
