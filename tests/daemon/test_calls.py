"""Calls over a real socket against a hypervisor of Python objects: answers, errors, order, bounds."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from pathlib import Path
from random import Random

import pytest
from tests.daemon.fake import Client, FakeHypervisor, daemon, open_descriptors, packet, ref
from tests.waiting import until

from corral.constants import ErrorDomain, ErrorNumber
from corral.daemon.server import Server
from corral.errors import NoDomain, NoSupport, OperationDenied, OperationInvalid
from corral.protocol.codec import codec
from corral.protocol.events import Message, Reply
from corral.protocol.procedures import PROGRAMS, procedure
from corral.protocol.state import CALL_WITH_FDS, OK


async def test_a_connection_tells_what_it_is(client: Client) -> None:
    assert (await client.call("connect_get_type")).type == "QEMU"
    assert (await client.call("connect_get_lib_version")).lib_ver == 11003000
    assert (await client.call("connect_get_version")).hv_ver == 10000002
    assert (await client.call("connect_get_uri")).uri == "qemu:///session"
    info = await client.call("node_get_info")
    assert (info.model, info.cpus, info.memory) == ("x86_64", 2, 1 << 20)


async def test_features_that_clients_ask_for(client: Client) -> None:
    for feature, supported in ((8, 1), (9, 1), (10, 1), (14, 1), (15, 1), (16, 1), (4, 0), (99, 0)):
        assert (await client.call("connect_supports_feature", feature=feature)).supported == supported, feature


async def test_nothing_before_open(served: tuple[Server, Path]) -> None:
    client = await Client.connect(served[1], open=False)
    assert (await client.call("auth_list")).types == [0]
    assert (await client.call("connect_supports_feature", feature=10)).supported == 1
    error = await client.error("connect_list_all_domains", need_results=1, flags=0)
    assert error.code == ErrorNumber.INTERNAL_ERROR and "connection not open" in str(error)
    await client.call("connect_open", name=None, flags=0)
    assert (await client.call("connect_list_all_domains", need_results=1, flags=0)).ret == 0
    client.close()


async def test_a_uri_of_another_hypervisor_is_refused(served: tuple[Server, Path]) -> None:
    client = await Client.connect(served[1], open=False)
    assert (await client.error("connect_open", name="xen:///system", flags=0)).code == ErrorNumber.NO_CONNECT
    await client.call("connect_open", name="qemu:///system", flags=0)
    client.close()


async def test_lookups_follow_what_happens(client: Client, hypervisor: FakeHypervisor) -> None:
    web = hypervisor.add("web")
    assert (await client.call("domain_lookup_by_name", name="web")).dom.id == -1
    assert (await client.call("domain_get_state", dom=ref(web), flags=0)).state == 5
    asked = web.asked
    assert (await client.call("domain_get_state", dom=ref(web), flags=0)).state == 5
    assert web.asked == asked, "the second answer should have come from memory"
    await client.call("domain_create", dom=ref(web))
    assert (await client.call("domain_lookup_by_name", name="web")).dom.id == 1
    assert (await client.call("domain_get_state", dom=ref(web), flags=0)).state == 1
    assert (await client.call("domain_lookup_by_id", id=1)).dom.name == "web"
    web.name = "www"
    web.generation += 1
    assert isinstance(await client.error("domain_lookup_by_name", name="web"), NoDomain)


async def test_a_domain_that_is_gone(client: Client, hypervisor: FakeHypervisor) -> None:
    web = hypervisor.add("web")
    wire = ref(web)
    del hypervisor.all[web.uuid]
    error = await client.error("domain_get_info", dom=wire)
    assert str(error) == f"Domain not found: no domain with matching uuid '{web.uuid}' (web)"
    assert error.code == ErrorNumber.NO_DOMAIN and error.domain == ErrorDomain.QEMU


async def test_flags_nobody_honours_are_refused(client: Client, hypervisor: FakeHypervisor) -> None:
    error = await client.error("domain_get_state", dom=ref(hypervisor.add("web")), flags=0x40)
    assert str(error) == "unsupported flags (0x40) in function virDomainGetState"
    assert error.code == ErrorNumber.INVALID_ARG


async def test_what_is_not_served(client: Client, hypervisor: FakeHypervisor) -> None:
    error = await client.error("domain_save", dom=ref(hypervisor.add("web")), to="/tmp/x")
    assert isinstance(error, NoSupport)
    assert str(error) == "this function is not supported by the connection driver: virDomainSave"
    assert (await client.call("connect_list_all_networks", need_results=1, flags=3)).ret == 0
    assert (await client.error("network_lookup_by_name", name="default")).code == ErrorNumber.NO_NETWORK


async def test_a_fault_of_ours_is_an_error_and_no_more(client: Client, hypervisor: FakeHypervisor) -> None:
    error = await client.error("domain_suspend", dom=ref(hypervisor.add("web")))
    assert error.code == ErrorNumber.INTERNAL_ERROR and "ValueError in domain_suspend" in str(error)
    assert (await client.call("connect_get_type")).type == "QEMU"


async def test_undecodable_arguments_and_unknown_procedures(client: Client) -> None:
    good = packet("domain_lookup_by_id", 7, {"id": 3})
    too_long = (len(good) + 4).to_bytes(4, "big") + good[4:] + b"\0\0\0\0"
    unknown = good[:12] + (9999).to_bytes(4, "big") + good[16:]
    other_version = good[:8] + (2).to_bytes(4, "big") + good[12:]
    for data, text in (
        (too_long, b"4 bytes too many"),
        (unknown, b"unknown procedure: 9999"),
        (other_version, b"version 2"),
    ):
        await asyncio.get_running_loop().sock_sendall(client.sock, data)
        async with asyncio.timeout(30):
            answer = await asyncio.get_running_loop().sock_recv(client.sock, 4096)
        assert answer[16:28] == bytes.fromhex("00000001 00000007 00000001"), "a reply to serial 7 that is an error"
        assert text in answer
    assert (await client.call("connect_get_type")).type == "QEMU"


async def test_pipelined_calls_are_all_answered(client: Client, hypervisor: FakeHypervisor) -> None:
    for number in range(50):
        hypervisor.add(f"vm{number}")
    serials = {}
    for number in range(5000):
        name = f"vm{number % 60}"
        serials[client.connection.call(procedure("domain_lookup_by_name"), {"name": name})] = name
    sender = asyncio.create_task(client.send())
    for serial, name in serials.items():
        try:
            assert (await client.answer(serial)).dom.name == name
        except NoDomain:
            assert int(name[2:]) >= 50
    await sender


async def test_queries_do_not_wait_for_changes(client: Client, hypervisor: FakeHypervisor) -> None:
    slow, quick = hypervisor.add("slow"), hypervisor.add("quick")
    slow.gate = asyncio.Event()
    starts = [client.connection.call(procedure("domain_create"), {"dom": ref(slow)}) for _ in range(400)]
    query = client.connection.call(procedure("domain_get_state"), {"dom": ref(quick), "flags": 0})
    await client.send()
    assert (await client.answer(query)).state == 5
    slow.gate.set()
    outcomes = []
    for start in starts:
        try:
            await client.answer(start)
            outcomes.append(True)
        except OperationInvalid:
            outcomes.append(False)
    assert sum(outcomes) == 1


async def test_keepalive_is_answered_while_calls_are_outstanding(client: Client, hypervisor: FakeHypervisor) -> None:
    slow = hypervisor.add("slow")
    slow.gate = asyncio.Event()
    for _ in range(100):
        client.connection.call(procedure("domain_create"), {"dom": ref(slow)})
    await client.send()
    ping = bytes.fromhex("0000001c 6b656570 00000001 00000001 00000002 00000000 00000000")
    await asyncio.get_running_loop().sock_sendall(client.sock, ping)
    async with asyncio.timeout(30):
        answer = await asyncio.get_running_loop().sock_recv(client.sock, 4096)
    assert answer == bytes.fromhex("0000001c 6b656570 00000001 00000002 00000002 00000000 00000000")
    slow.gate.set()


async def test_a_change_runs_on_when_its_client_leaves(
    client: Client, served: tuple[Server, Path], hypervisor: FakeHypervisor
) -> None:
    slow = hypervisor.add("slow")
    slow.gate = asyncio.Event()
    client.connection.call(procedure("domain_create"), {"dom": ref(slow)})
    await client.send()
    await asyncio.sleep(0.02)
    client.close()
    await until(lambda: not served[0].sessions and hypervisor.owners_closed >= 1)
    slow.gate.set()
    await until(lambda: slow.active)


async def test_close_is_answered_and_then_the_socket_ends(client: Client) -> None:
    assert await client.call("connect_close") is None
    await client.gone(1)


async def test_the_read_only_socket(served: tuple[Server, Path], hypervisor: FakeHypervisor) -> None:
    web = hypervisor.add("web")
    path = served[1]
    for client in (await Client.connect(path.with_name("s-ro")), await Client.connect(path, flags=1)):
        assert (await client.call("domain_get_state", dom=ref(web), flags=0)).state == 5
        assert "<name>web" in (await client.call("domain_get_xml_desc", dom=ref(web), flags=0)).xml
        error = await client.error("domain_create", dom=ref(web))
        assert isinstance(error, OperationDenied)
        assert str(error) == "operation forbidden: read only access prevents virDomainCreate"
        assert isinstance(await client.error("domain_get_xml_desc", dom=ref(web), flags=1), OperationDenied)
        assert isinstance(
            await client.error("qemu.domain_monitor_command", dom=ref(web), cmd="x", flags=0), OperationDenied
        )
        assert not web.active
        client.close()


async def test_secure_xml_does_not_leak_through_kept_answers(
    served: tuple[Server, Path], hypervisor: FakeHypervisor
) -> None:
    web = hypervisor.add("web")
    writer, reader = await Client.connect(served[1]), await Client.connect(served[1].with_name("s-ro"))
    await writer.call("domain_get_xml_desc", dom=ref(web), flags=1)
    assert isinstance(await reader.error("domain_get_xml_desc", dom=ref(web), flags=1), OperationDenied)
    writer.close()
    reader.close()


async def test_a_client_that_does_not_read_is_bounded(
    client: Client, served: tuple[Server, Path], hypervisor: FakeHypervisor
) -> None:
    hypervisor.padding = 100_000
    web = hypervisor.add("web")
    call = packet("domain_get_xml_desc", 1, {"dom": ref(web), "flags": 0})
    loop = asyncio.get_running_loop()
    sender = asyncio.create_task(loop.sock_sendall(client.sock, call * 20_000))
    await asyncio.sleep(0.3)
    (session,) = served[0].sessions
    assert not sender.done(), "reading should have stopped"
    assert session._connection.outgoing + len(session._unsent or b"") < 4 << 20
    started = time.monotonic()
    other = await Client.connect(served[1])
    assert (await other.call("connect_get_type")).type == "QEMU"
    assert time.monotonic() - started < 10
    other.close()
    sender.cancel()


async def test_a_listener_that_does_not_read_is_dropped(
    client: Client, served: tuple[Server, Path], hypervisor: FakeHypervisor
) -> None:
    await client.call("connect_domain_event_callback_register_any", eventID=0, dom=None)
    web = hypervisor.add("web" * 300)
    for _ in range(60_000):
        await web.destroy()
        if not served[0].sessions:
            break
        if _ % 1000 == 0:
            await asyncio.sleep(0)
    await until(lambda: not served[0].sessions)


async def test_half_a_header_harms_nobody(served: tuple[Server, Path]) -> None:
    client = await Client.connect(served[1], open=False)
    await asyncio.get_running_loop().sock_sendall(client.sock, packet("auth_list", 1)[:9])
    other = await Client.connect(served[1])
    assert (await other.call("connect_get_type")).type == "QEMU"
    bad = await Client.connect(served[1], open=False)
    await asyncio.get_running_loop().sock_sendall(bad.sock, b"\xff\xff\xff\xff" + b"\0" * 60)
    await bad.gone(1)
    assert (await other.call("connect_get_type")).type == "QEMU"
    other.close()
    client.close()


async def test_clients_who_never_open_are_sent_away(
    served: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.daemon.session.OPEN_TIMEOUT", 0.1)
    client = await Client.connect(served[1], open=False)
    await client.gone(2)


async def test_errors_name_the_entry_limit(client: Client) -> None:
    assert (await client.error("connect_list_domains", maxids=-1)).code == ErrorNumber.INVALID_ARG
    assert (await client.call("connect_list_domains", maxids=16384)).ids == []


async def test_statistics(client: Client, hypervisor: FakeHypervisor) -> None:
    web = hypervisor.add("web")
    await web.create()
    answer = await client.call("connect_get_all_domain_stats", doms=[], stats=0, flags=0)
    assert [(record.dom.name, record.params[0].field) for record in answer.retStats] == [("web", "state.state")]
    answer = await client.call("domain_interface_stats", dom=ref(web), device="vnet0")
    assert (answer.rx_bytes, answer.tx_packets) == (12, 3)


def test_a_reply_type_is_what_the_protocol_says() -> None:
    assert codec("remote_connect_get_type_ret").encode({"type": "QEMU"}) == b"\0\0\0\4QEMU"
    assert Reply and Message


async def test_lists_follow_what_happens(client: Client, hypervisor: FakeHypervisor) -> None:
    web, db = hypervisor.add("web"), hypervisor.add("db")

    async def names(flags: int) -> list[str]:
        answer = await client.call("connect_list_all_domains", need_results=1, flags=flags)
        return [domain.name for domain in answer.domains]

    assert await names(0) == ["db", "web"] and await names(1) == []
    await client.call("domain_create", dom=ref(web))
    assert await names(1) == ["web"] and await names(2) == ["db"]
    assert (await client.call("connect_list_domains", maxids=10)).ids == [1]
    assert (await client.call("connect_list_defined_domains", maxnames=10)).names == ["db"]
    await client.call("domain_define_xml", xml="new")
    assert await names(0) == ["db", "new", "web"]
    assert (await client.call("connect_list_all_domains", need_results=0, flags=0)).ret == 3
    assert (await client.call("connect_num_of_domains")).num == 1
    await db.destroy()


async def test_the_daemon_leaves_when_it_has_nothing_to_do(hypervisor: FakeHypervisor) -> None:
    left = asyncio.Event()
    async with daemon(hypervisor, idle_timeout=1.0, on_idle=left.set) as (_, path):
        client = await Client.connect(path)
        await asyncio.sleep(1.5)
        assert not left.is_set(), "a client is connected"
        web = hypervisor.add("web")
        await client.call("domain_create", dom=ref(web))
        client.close()
        await asyncio.sleep(1.5)
        assert not left.is_set(), "a domain is active"
        await web.destroy()
        await asyncio.wait_for(left.wait(), 30)


async def test_another_user_is_turned_away(hypervisor: FakeHypervisor) -> None:
    nobody = 65534 if os.geteuid() else None
    async with daemon(hypervisor, only_uid=nobody or 12345) as (server, path):
        if os.geteuid():
            client = await Client.connect(path, open=False)
            await client.gone(1)
            assert not server.sessions
        else:  # root is welcome everywhere
            client = await Client.connect(path)
            assert (await client.call("connect_get_type")).type == "QEMU"
        client.close()


async def test_bytes_that_are_no_protocol(served: tuple[Server, Path]) -> None:
    random = Random(7)
    good = await Client.connect(served[1])
    for _ in range(300):
        data = bytearray(
            packet("connect_open", 1, {"name": "qemu:///session", "flags": 0}) + packet("connect_get_type", 2)
        )
        for _ in range(random.randrange(1, 6)):
            data[random.randrange(len(data))] = random.randrange(256)
        with socket.socket(socket.AF_UNIX) as bad:
            bad.connect(str(served[1]))
            bad.send(data)
        await asyncio.sleep(0)
    assert (await good.call("connect_get_type")).type == "QEMU"
    for _ in range(200):
        await asyncio.sleep(0.01)
        if len(served[0].sessions) == 1:
            break
    assert len(served[0].sessions) == 1
    good.close()


def _send_with_descriptor(client: Client, name: str, args: dict[str, object] | None) -> int:
    """Call with one descriptor; the call's serial."""
    reader, writer = os.pipe()
    os.close(reader)
    serial = client.connection.call(procedure(name), args, fds=(writer,))
    client.sock.send(client.connection.data_to_send())
    for fd in client.connection.fds_to_send():
        socket.send_fds(client.sock, [b"\0"], [fd])
        os.close(fd)
    return serial


async def test_descriptors_that_nobody_wants_are_closed(client: Client, hypervisor: FakeHypervisor) -> None:
    before = open_descriptors()
    web = hypervisor.add("web")
    for _ in range(5):
        serial = _send_with_descriptor(client, "domain_create_with_files", {"dom": ref(web), "flags": 0})
        with pytest.raises(NoSupport):
            await client.answer(serial)
    assert (await client.call("connect_get_type")).type == "QEMU"
    assert open_descriptors() == before


async def test_descriptors_with_a_query_whose_answer_is_kept_are_closed(
    client: Client, hypervisor: FakeHypervisor
) -> None:
    web = hypervisor.add("web")
    await client.call("domain_get_state", dom=ref(web), flags=0)
    before = open_descriptors()
    for _ in range(5):
        await client.answer(_send_with_descriptor(client, "domain_get_state", {"dom": ref(web), "flags": 0}))
    assert web.asked == 1, "the answer came from memory"
    assert open_descriptors() == before


async def test_descriptors_with_a_call_that_nobody_knows_are_closed_at_once(client: Client) -> None:
    before = open_descriptors()
    loop = asyncio.get_running_loop()
    for serial in range(1, 6):
        reader, writer = os.pipe()
        os.close(reader)
        program, version = PROGRAMS["REMOTE"]
        client.sock.send(struct.pack(">8I", 32, program, version, 60000, CALL_WITH_FDS, serial, OK, 1))
        socket.send_fds(client.sock, [b"\0"], [writer])
        os.close(writer)
        assert b"unknown procedure: 60000" in await asyncio.wait_for(loop.sock_recv(client.sock, 4096), 5)
    assert (await client.call("connect_get_type")).type == "QEMU"
    assert open_descriptors() == before, "they wait for the client to leave"


async def test_descriptors_of_calls_that_a_client_did_not_wait_for_are_closed(
    served: tuple[Server, Path], hypervisor: FakeHypervisor
) -> None:
    client = await Client.connect(served[1])
    hypervisor.padding = 3 << 20
    web = hypervisor.add("web")
    before = open_descriptors()
    for _ in range(3):  # answers larger than the socket takes: what comes after them waits to be looked at
        client.connection.call(procedure("domain_get_xml_desc"), {"dom": ref(web), "flags": 0})
    _send_with_descriptor(client, "connect_get_uri", None)
    await client.receive()
    client.close()
    for _ in range(200):
        if not served[0].sessions:
            break
        await until(lambda: not served[0].sessions)
    assert open_descriptors() == before - 2, "both ends of the client's socket, and nothing else"
