"""What two calls at once must not do to each other, and what must not be lost of work that nobody waits for."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from corral.errors import ConfigUnsupported, HostError, InternalError, NoSecret, OperationTimeout
from corral.hypervisor.devices import vsock
from corral.hypervisor.disks import images
from corral.hypervisor.hypervisor import Hypervisor
from corral.hypervisor.secrets import Secrets
from corral.model.devices.vsock import CID, Vsock
from corral.model.domain import Domain as DomainDocument

HEAD = "<domain type='qemu'><name>{}</name><memory>1024</memory><os><type>hvm</type></os><devices>"
SECRET = "<secret><usage type='ceph'><name>one</name></usage></secret>"


def _document(name: str, devices: str) -> DomainDocument:
    return DomainDocument.from_xml(HEAD.format(name) + devices + "</devices></domain>")


async def test_two_secrets_for_one_use(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path)
    answers = await asyncio.gather(secrets.define(SECRET), secrets.define(SECRET), return_exceptions=True)
    assert sorted(type(each) is InternalError for each in answers) == [False, True], answers
    assert len(secrets.list()) == len(list(tmp_path.glob("*.xml"))) == 1  # noqa: ASYNC240


async def test_a_secret_that_goes_while_its_value_is_set(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path)
    secret = await secrets.define(SECRET)
    answers = await asyncio.gather(secrets.undefine(secret), secrets.set_value(secret, b"late"), return_exceptions=True)
    assert answers[0] is None and isinstance(answers[1], NoSecret)
    assert not list(tmp_path.iterdir()), "the next daemon would have it again"  # noqa: ASYNC240


def test_two_machines_get_two_numbers_of_a_vsock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives each to one guest; with a real one: tests/guests/test_lent.py."""
    taken: dict[int, int] = {}

    def ioctl(end: int, request: int, argument: bytes) -> None:
        number = int.from_bytes(argument, "little")
        assert request == vsock.SET_GUEST_CID and number >= 3
        if taken.get(number, end) != end:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        taken[number] = end

    monkeypatch.setattr(vsock.fcntl, "ioctl", ioctl)
    monkeypatch.setattr("corral.qemu.devices.vsock.HOSTS", "/dev/null")
    one, two = (Vsock(cid=CID(auto="yes")) for _ in range(2))
    with vsock.opened([one]), vsock.opened([two]):
        assert [one.cid, two.cid] == [CID(auto="yes", address=3), CID(auto="yes", address=4)]
        with (
            pytest.raises(HostError, match="failed to set guest cid 4: Address already in use"),
            vsock.opened([Vsock(cid=CID(address=4))]),
        ):
            pass
    monkeypatch.setattr("corral.qemu.devices.vsock.HOSTS", "/none")
    with pytest.raises(ConfigUnsupported, match="unable to open vhost-vsock device"), vsock.opened([one]):
        pass


async def test_a_dead_file_system_holds_up_a_start_and_no_longer_than_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(images, "_chain", lambda disk, path: answers.wait(30) and ())
    monkeypatch.setattr(images, "LOOK_TIMEOUT", 0.05)
    disks = "".join(f"<disk type='file'><source file='{tmp_path}/{n}'/><target dev='vd{n}'/></disk>" for n in "ab")
    document = _document("n", disks)
    try:
        with pytest.raises(OperationTimeout, match=f"{tmp_path}/a' took more than 0.05 s"):
            await images.chains_of(document)
    finally:
        answers.set()


async def test_what_fails_while_nobody_waits_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise HostError("the disk is full")

    fake = SimpleNamespace(_tasks=set())
    fake._begin = lambda work: Hypervisor._begin(cast(Hypervisor, fake), work)
    hypervisor = cast(Hypervisor, fake)
    await asyncio.wait([Hypervisor.spawn(hypervisor, fails())])
    await asyncio.sleep(0)
    assert "fails failed: " in caplog.text and "the disk is full" in caplog.text
    caplog.clear()
    with pytest.raises(HostError):
        await Hypervisor.complete(hypervisor, fails())
    await asyncio.sleep(0)
    assert not caplog.text, "who waits for it hears of it"
