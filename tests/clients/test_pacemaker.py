"""Pacemaker's VirtualDomain resource agent and fence_virsh, as Debian ships them, against our daemon."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from labs import corrald

OCF_ROOT = Path("/usr/lib/ocf")
AGENT = OCF_ROOT / "resource.d/heartbeat/VirtualDomain"
FENCE = Path("/usr/sbin/fence_virsh")
#: OCF's exit statuses.
SUCCESS, GENERIC, NOT_RUNNING = 0, 1, 7

pytestmark = [pytest.mark.clients, pytest.mark.qemu]

DOCUMENT = """
<domain type='qemu'>
  <name>ha</name>
  <memory unit='MiB'>32</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><serial type='pty'/></devices>
</domain>
"""


class Agent:
    """The resource agent, run as Pacemaker runs it: everything it knows is in its environment."""

    def __init__(self, daemon: corrald.Daemon) -> None:
        directory = daemon.state.parent
        config = directory / "ha.xml"
        config.write_text(DOCUMENT)
        self.log = directory / "ha.log"
        self.environment = {
            **os.environ,
            "LC_ALL": "C",
            "OCF_ROOT": str(OCF_ROOT),
            "OCF_RESOURCE_INSTANCE": "ha",
            "OCF_RESOURCE_TYPE": "VirtualDomain",
            "OCF_RESKEY_config": str(config),
            "OCF_RESKEY_hypervisor": daemon.uri,
            "OCF_RESKEY_force_stop": "1",
            "OCF_RESKEY_CRM_meta_timeout": "20000",
            "OCF_RESKEY_crm_feature_set": "3.0",
            **{f"OCF_RESKEY_autoset_utilization_{of}": "0" for of in ("cpu", "host_memory", "hv_memory")},
            "HA_RSCTMP": str(directory),
            "HA_LOGFACILITY": "none",
            "HA_LOGFILE": str(self.log),
            "HA_DEBUGLOG": str(self.log),
        }

    def __call__(self, action: str) -> int:
        done = subprocess.run([str(AGENT), action], env=self.environment, capture_output=True, text=True, timeout=60)
        return done.returncode


@pytest.fixture
def agent(daemon: corrald.Daemon) -> Iterator[Agent]:
    if not AGENT.exists():
        pytest.skip("Pacemaker's agents are not installed (apt-get install resource-agents)")
    agent = Agent(daemon)
    yield agent
    subprocess.run(["virsh", "-q", "-c", daemon.uri, "destroy", "ha"], capture_output=True, timeout=100)


def virsh(daemon: corrald.Daemon, *words: str) -> str:
    done = subprocess.run(["virsh", "-c", daemon.uri, *words], capture_output=True, text=True, timeout=100)
    return (done.stdout + done.stderr).strip()


def test_start_monitor_stop(daemon: corrald.Daemon, agent: Agent) -> None:
    assert agent("validate-all") == SUCCESS
    assert agent("monitor") == NOT_RUNNING
    assert agent("start") == SUCCESS
    assert virsh(daemon, "domstate", "ha") == "running"
    assert agent("monitor") == SUCCESS
    assert agent("start") == SUCCESS, "starting what runs already"
    assert agent("stop") == SUCCESS
    assert agent("monitor") == NOT_RUNNING
    assert agent("stop") == SUCCESS, "stopping what does not run"
    assert "ha" not in virsh(daemon, "list", "--all", "--name").split()


def test_monitor_while_the_daemon_is_down(agent: Agent, daemon: corrald.Daemon) -> None:
    """The agent then looks for the machine by its `-name guest=ha,` in the list of processes."""
    assert agent("start") == SUCCESS
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait(60)
    try:
        assert agent("monitor") == SUCCESS, agent.log.read_text()[-2000:]
    finally:
        again = corrald.start(daemon.state.parent)
    try:
        assert virsh(again, "domstate", "ha") == "running"
        assert agent("monitor") == SUCCESS
    finally:
        corrald.stop(again)  # and the machine with it
    assert agent("monitor") != SUCCESS


class Shell:
    """What fence_virsh types at a host's prompt, done here by a shell: its connection without ssh."""

    def __init__(self, daemon: corrald.Daemon) -> None:
        self.environment = {**os.environ, "LC_ALL": "C", "LIBVIRT_DEFAULT_URI": daemon.uri}
        self.before = ""

    def sendline(self, line: str) -> None:
        done = subprocess.run(line, shell=True, capture_output=True, text=True, env=self.environment, timeout=100)
        self.before = f"{line}\r\n{done.stdout}{done.stderr}"

    def log_expect(self, prompt: Any, timeout: int) -> int:
        return 0


def _fence_virsh() -> ModuleType:
    sys.path.append("/usr/share/fence")
    loader = importlib.machinery.SourceFileLoader("fence_virsh", str(FENCE))
    spec = importlib.util.spec_from_loader("fence_virsh", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
    except ImportError as error:
        pytest.skip(f"fence_virsh does not run with this Python: {error}")
    finally:
        sys.path.remove("/usr/share/fence")
    return module


@pytest.fixture
def fresh() -> Iterator[corrald.Daemon]:
    with tempfile.TemporaryDirectory(prefix="cf") as directory, corrald.running(Path(directory)) as daemon:
        yield daemon


@pytest.mark.skipif(not FENCE.exists(), reason="fence_virsh is not installed (apt-get install fence-agents)")
def test_fence_virsh(fresh: corrald.Daemon) -> None:
    fence, shell = _fence_virsh(), Shell(fresh)
    path = fresh.state.parent / "ha.xml"
    path.write_text(DOCUMENT)
    virsh(fresh, "define", str(path))
    options = {"--command-prompt": "#", "--shell-timeout": "5", "--power-timeout": "5", "--power-wait": "0"}
    options["--plug"] = "ha"
    assert fence.get_outlets_status(shell, options) == {"ha": ("", "off")}
    for action, status in (("on", "on"), ("off", "off")):
        fence.set_power_status(shell, {**options, "--action": action})
        assert fence.get_power_status(shell, options) == status
        assert fence.get_outlets_status(shell, options) == {"ha": ("", status)}
    assert fence.get_power_status(shell, {**options, "--plug": "nobody", "--missing-as-off": "1"}) == "off"
