"""Child processes: they outlive the thread that asked for them, and die with the program."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from shoal_local.process import Child, NotStarted, started_at


def test_a_child_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    child = Child("sleeper", ["sleep", "60"], tmp_path / "log")
    thread = threading.Thread(target=child.start)
    thread.start()
    thread.join()
    time.sleep(0.3)
    try:
        assert child.pid
    finally:
        child.kill()
    assert not child.pid


def test_a_child_dies_with_its_program(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from shoal_local.process import Child\n"
        "child = Child('sleeper', ['sleep', '60'], Path(sys.argv[1])); child.start()\n"
        "print(child.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "log")], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert started_at(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
    deadline = time.monotonic() + 10
    while (stat := Path(f"/proc/{pid}/stat")).exists() and " Z " not in stat.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_ends_early_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child("talker", [sys.executable, "-c", "print('no such port'); raise SystemExit(3)"], tmp_path / "log")
    child.start()
    with pytest.raises(NotStarted, match="no such port"):
        child.wait_until(lambda: False, 10, "ready")


def test_what_is_late_is_told(tmp_path: Path) -> None:
    child = Child("sleeper", ["sleep", "60"], tmp_path / "log")
    child.start()
    try:
        with pytest.raises(NotStarted, match="not ready after 0 s"):
            child.wait_until(lambda: False, 0.1, "ready")
    finally:
        child.kill()
