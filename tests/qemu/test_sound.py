"""Audio backends as QEMU has them: by libvirt's names in the document, by QEMU's on its command line."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corral.errors import ConfigUnsupported, XMLError
from corral.model.domain import Domain
from corral.qemu.binary import Binary
from corral.qemu.defaults import Host, complete
from corral.qemu.plan import Runtime, plan
from corral.qemu.render import argv

DOCUMENT = """<domain type='qemu'><name>s</name><memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{}</devices></domain>"""
ALL = frozenset(["none", "alsa", "dbus", "jack", "oss", "pa", "pipewire", "sdl", "spice", "wav"])


def audiodevs(binary: Binary, host: Host, *backends: str) -> list[dict[str, Any]]:
    document = complete(Domain.from_xml(DOCUMENT.format("".join(backends))), binary, host)
    words = argv(plan(document, binary, Runtime(accel="tcg", run_dir=Path("/run"), monitor_fd=7)), {})
    return [json.loads(word) for option, word in itertools.pairwise(words) if option == "-audiodev"]


def test_every_backend(binary: Binary, host: Host) -> None:
    """What libvirt 11.3 makes of the same."""
    found = audiodevs(
        replace(binary, audiodevs=ALL),
        host,
        "<audio id='1' type='alsa' timerPeriod='50'><input dev='hw:1' voices='2'/><output mixingEngine='no'/></audio>",
        "<audio id='2' type='oss' tryMMap='yes' exclusive='no' dspPolicy='3'>"
        "<input dev='/dev/dsp0' bufferCount='40' tryPoll='yes'/></audio>",
        "<audio id='3' type='pulseaudio' serverName='acme'><output name='a' streamName='b' latency='100'/></audio>",
        "<audio id='4' type='pipewire'><output name='yes'/></audio>",
        "<audio id='5' type='jack'><input serverName='a' clientName='b' connectPorts='a' exactName='no'/></audio>",
        "<audio id='6' type='sdl'><output bufferCount='40'/></audio>",
        "<audio id='7' type='file' path='/x.wav'/>",
    )
    assert [{name: value for name, value in each.items() if name != "id"} for each in found] == [
        {
            "driver": "alsa",
            "timer-period": 50,
            "in": {"dev": "hw:1", "voices": 2},
            "out": {"mixing-engine": False},
        },
        {
            "driver": "oss",
            "try-mmap": True,
            "exclusive": False,
            "dsp-policy": 3,
            "in": {"dev": "/dev/dsp0", "buffer-count": 40, "try-poll": True},
        },
        {"driver": "pa", "server": "acme", "out": {"name": "a", "stream-name": "b", "latency": 100}},
        {"driver": "pipewire", "out": {"name": "yes"}},
        {
            "driver": "jack",
            "in": {"server-name": "a", "client-name": "b", "connect-ports": "a", "exact-name": False},
        },
        {"driver": "sdl", "out": {"buffer-count": 40}},
        {"driver": "wav", "path": "/x.wav"},
    ]


def test_what_this_qemu_lacks(binary: Binary, host: Host) -> None:
    with pytest.raises(ConfigUnsupported, match="pipewire audio is not supported with QEMU binary") as raised:
        audiodevs(binary, host, "<audio id='1' type='pipewire'/>")
    assert raised.value.hint == "it has alsa, dbus, file, none, oss, spice"
    with pytest.raises(ConfigUnsupported, match="needs a path"):
        audiodevs(binary, host, "<audio id='1' type='file'/>")


def test_backends_of_one_number() -> None:
    text = DOCUMENT.format("<audio id='1' type='none'/><audio id='1' type='none'/>")
    with pytest.raises(XMLError, match="audio ID 1 is used multiple times"):
        Domain.from_xml(text).check(text)
