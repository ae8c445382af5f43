"""The other end of a vhost-user card: answers ARP and ping for every address, out of the guest's own memory.

The vhost-user protocol (QEMU's docs/interop/vhost-user.rst) with split virtqueues (Virtual I/O Device 1.2), as much
as a Linux guest needs to be answered. One connection, in a thread.
"""

from __future__ import annotations

import array
import contextlib
import mmap
import os
import select
import socket
import struct
import threading
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

MAC = bytes.fromhex("525400feed01")
_VERSION_1, _PROTOCOL_FEATURES = 1 << 32, 1 << 30
_HEADER = 12  # of virtio-net, before each packet
_NEXT = 1


class Request(IntEnum):
    """The messages that matter here."""

    GET_FEATURES = 1
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    GET_PROTOCOL_FEATURES = 15
    GET_QUEUE_NUM = 17


@dataclass
class Queue:
    size: int = 0
    last: int = 0
    desc: int = 0
    used: int = 0
    avail: int = 0
    kick: int = -1
    call: int = -1


@dataclass
class Region:
    guest: int
    size: int
    user: int
    memory: mmap.mmap
    offset: int


@dataclass
class Backend:
    """Listens at a path; `connected` is set while QEMU is there, `packets` counts what the guest sent."""

    path: Path
    connected: threading.Event = field(default_factory=threading.Event)
    packets: int = 0
    queues: list[Queue] = field(default_factory=lambda: [Queue(), Queue()])
    regions: list[Region] = field(default_factory=list)

    def __enter__(self) -> Backend:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.path))
        self.path.chmod(0o666)
        self._listening.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)
        self.path.unlink(missing_ok=True)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                qemu, _ = self._listening.accept()
                self.queues, self.regions = [Queue(), Queue()], []
                self.connected.set()
                with qemu, contextlib.suppress(ConnectionError):
                    while True:
                        kicks = [queue.kick for queue in self.queues if queue.kick >= 0]
                        for ready in select.select([qemu, *kicks], [], [])[0]:
                            if ready is qemu:
                                self._message(qemu)
                            else:
                                os.read(ready, 8)
                                self._from_guest()
                self.connected.clear()

    def _message(self, qemu: socket.socket) -> None:
        head, control, _, _ = qemu.recvmsg(12, socket.CMSG_SPACE(8 * 4))
        if len(head) < 12:
            raise ConnectionError
        fds = array.array("i")
        for level, kind, data in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) // 4 * 4])
        request, _flags, size = struct.unpack("<III", head)
        body = qemu.recv(size, socket.MSG_WAITALL) if size else b""
        answer = self._handle(request, body, list(fds))
        if answer is not None:
            qemu.sendall(struct.pack("<III", request, 1 | 4, len(answer)) + answer)

    def _handle(self, request: int, body: bytes, fds: list[int]) -> bytes | None:
        match request:
            case Request.GET_FEATURES:
                return struct.pack("<Q", _VERSION_1 | _PROTOCOL_FEATURES)
            case Request.GET_PROTOCOL_FEATURES:
                return struct.pack("<Q", 0)
            case Request.GET_QUEUE_NUM:
                return struct.pack("<Q", 1)
            case Request.SET_MEM_TABLE:
                self.regions = []
                for number, fd in enumerate(fds):
                    guest, size, user, offset = struct.unpack_from("<4Q", body, 8 + 32 * number)
                    self.regions.append(Region(guest, size, user, mmap.mmap(fd, size + offset), offset))
                    os.close(fd)
            case Request.SET_VRING_NUM:
                index, number = struct.unpack("<II", body)
                self.queues[index].size = number
            case Request.SET_VRING_ADDR:
                index, _, desc, used, avail, _ = struct.unpack("<II4Q", body)
                queue = self.queues[index]
                queue.desc, queue.used, queue.avail = desc, used, avail
            case Request.SET_VRING_BASE:
                index, number = struct.unpack("<II", body)
                self.queues[index].last = number
            case Request.GET_VRING_BASE:
                (index,) = struct.unpack_from("<I", body)
                self.queues[index].kick = -1
                return struct.pack("<II", index, self.queues[index].last)
            case Request.SET_VRING_KICK:
                self.queues[body[0]].kick = fds[0]
            case Request.SET_VRING_CALL:
                self.queues[body[0]].call = fds[0] if fds else -1
        return None

    def _at(self, address: int, *, user: bool = False) -> tuple[mmap.mmap, int]:
        for region in self.regions:
            start = region.user if user else region.guest
            if start <= address < start + region.size:
                return region.memory, address - start + region.offset
        raise ConnectionError(f"address {address:#x} is in no region")

    def _chain(self, queue: Queue) -> tuple[int, list[tuple[mmap.mmap, int, int]]] | None:
        """The next chain that the driver offers: its head, and its pieces of memory."""
        memory, avail = self._at(queue.avail, user=True)
        (index,) = struct.unpack_from("<H", memory, avail + 2)
        if index == queue.last:
            return None
        (head,) = struct.unpack_from("<H", memory, avail + 4 + 2 * (queue.last % queue.size))
        queue.last = (queue.last + 1) & 0xFFFF
        memory, table = self._at(queue.desc, user=True)
        pieces, number, flags = [], head, _NEXT
        while flags & _NEXT:
            address, length, flags, following = struct.unpack_from("<QIHH", memory, table + 16 * number)
            pieces.append((*self._at(address), length))
            number = following
        return head, pieces

    def _done(self, queue: Queue, head: int, written: int) -> None:
        memory, used = self._at(queue.used, user=True)
        (index,) = struct.unpack_from("<H", memory, used + 2)
        struct.pack_into("<II", memory, used + 4 + 8 * (index % queue.size), head, written)
        struct.pack_into("<H", memory, used + 2, (index + 1) & 0xFFFF)
        if queue.call >= 0:
            os.write(queue.call, struct.pack("<Q", 1))

    def _from_guest(self) -> None:
        receiving, sending = self.queues
        while sending.kick >= 0 and (chain := self._chain(sending)) is not None:
            head, pieces = chain
            packet = b"".join(memory[at : at + length] for memory, at, length in pieces)[_HEADER:]
            self._done(sending, head, 0)
            self.packets += 1
            reply = answer(packet)
            if reply is not None and (room := self._chain(receiving)) is not None:
                head, pieces = room
                left = struct.pack("<BBHHHHH", 0, 0, 0, 0, 0, 0, 1) + reply
                written = len(left)
                for memory, at, length in pieces:
                    memory[at : at + min(length, len(left))] = left[:length]
                    left = left[length:]
                self._done(receiving, head, written)


def answer(packet: bytes) -> bytes | None:
    """The reply to an ARP request or an IPv4 echo request; None for everything else."""
    sender, kind = packet[6:12], packet[12:14]
    if kind == b"\x08\x06" and packet[20:22] == b"\0\1":
        return sender + MAC + kind + packet[14:20] + b"\0\2" + MAC + packet[38:42] + packet[22:32]
    if kind == b"\x08\0" and packet[14] == 0x45 and packet[23] == 1 and packet[34] == 8:
        length = struct.unpack_from("!H", packet, 16)[0]
        echo = b"\0\0\0\0" + packet[38 : 14 + length]
        total = sum(struct.unpack(f"!{(len(echo) + 1) // 2}H", echo + b"\0" * (len(echo) % 2)))
        total = (total & 0xFFFF) + (total >> 16)
        total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        echo = b"\0\0" + struct.pack("!H", total) + echo[4:]
        return sender + MAC + kind + packet[14:26] + packet[30:34] + packet[26:30] + echo
    return None
