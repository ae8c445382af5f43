"""What two calls at once must not do to each other, and what must not be lost of work that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from corral.errors import HostError, InternalError, NoSecret, OperationTimeout
from corral.hypervisor.devices import host_devices
from corral.hypervisor.disks import images
from corral.hypervisor.domain import Domain
from corral.hypervisor.hypervisor import Hypervisor
from corral.hypervisor.run import Run
from corral.hypervisor.secrets import Secrets
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


def test_two_starts_get_two_numbers_of_a_vsock() -> None:
    domains: list[Any] = []
    for name in ("one", "two"):
        document = _document(name, "<vsock model='virtio'><cid auto='yes'/></vsock>")
        run = SimpleNamespace(cid=0, live=SimpleNamespace(document=document))
        domains.append(SimpleNamespace(run=run, hypervisor=SimpleNamespace(domains=lambda: domains)))
    for domain in domains:
        host_devices.choose_cid(cast(Domain, domain), cast(Run, domain.run), domain.run.live.document)
    assert [domain.run.cid for domain in domains] == [3, 4]


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
