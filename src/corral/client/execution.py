"""A program in the guest, run through its agent: what it writes arrives while it runs, however much it is.

The agent itself gives output only after the program's end, and all of it in one answer. So a shell in the guest puts
the output into files of at most 4 MiB, two for each stream at a time, which we read as they grow and whose end we
confirm: a program that writes faster than we read waits. Much input goes the same way, in a file that is gone once it
is open. Little output comes with the agent's word of the end, as it
always does. A guest without that shell runs the program itself, and the agent's own limits hold.

Commands and their fields: QEMU's guest agent protocol reference (guest-exec, guest-exec-status, guest-file-*).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from corral.errors import AgentCommandFailed, CorralError, InvalidArgument, OperationTimeout

if TYPE_CHECKING:
    from types import TracebackType

    from corral.client.domain import Domain

STDIN_LIMIT = 2 << 20  # bytes that go along with the command: a call carries 4 MiB, and base64 makes four of three
PIECE = 2 << 20  # bytes of a file in one answer, for the same reason
PIECE_TIMEOUT = 30.0  # seconds: a guest in emulation on a busy host needs more than five for that much
FIRST_LOOK, LAST_LOOK = 0.02, 0.3  # seconds between looks at a running program: the agent tells of nothing by itself
PATIENCE = 0.1  # seconds that a program may take before its files are looked for
STDOUT, STDERR = 1, 2

#: Makes the program and all that it starts a group, to which a signal can be sent. The script comes by standard input,
#: so that the guest's list of processes stays readable, or as $0 where the program's own input comes that way.
_LEAD = """\
read -r _ _ _ _ group _ 2>/dev/null </proc/$$/stat
[ "$group" = $$ ] || ! command -v setsid >/dev/null && lead= || lead=setsid
[ "$0" = sh ] && exec $lead sh -s "$@"
exec $lead sh -c "$0" sh "$@"
"""
#: $1 is the directory's name, the rest the command. Files o0, o1, … and e0, e1, … hold what came out; a line in oa and
#: ea says that the older of two files has been read.
_RUN = """\
name=$1; shift
for base in /run /tmp; do mkdir -m 700 "$base/$name" 2>/dev/null && break; base=; done
dir=$base/$name
[ -n "$base" ] && command -v dd wc env >/dev/null && mkfifo "$dir/o" "$dir/e" "$dir/oa" "$dir/ea" 2>/dev/null || {
	[ -z "$base" ] || rm -r "$dir"
	exec "$@" $input
}
keep() {
	exec 4<>"$dir/$1a"
	n=0
	while dd bs=65536 count=64 >"$dir/$1$n" 2>/dev/null; [ -s "$dir/$1$n" ]; do
		n=$((n + 1))
		[ $n -lt 2 ] || { read -r _ <&4; rm "$dir/$1$((n - 2))"; }
	done
}
keep o <"$dir/o" &
keep e <"$dir/e" &
env -- "$@" $input >"$dir/o" 2>"$dir/e"
status=$?
wait
if [ -e "$dir/o0" ] && [ -e "$dir/e0" ] && ! [ -s "$dir/o1" ] && ! [ -s "$dir/e1" ] &&
	[ "$(cat "$dir/o0" "$dir/e0" | wc -c)" -lt 1000000 ]; then
	cat "$dir/o0"; cat "$dir/e0" >&2; rm -r "$dir"
fi
exit $status
"""
#: $0 is the name of a directory that nobody but us may look into; where it is, is written.
_ROOM = (
    'for base in /var/tmp /tmp /run; do mkdir -m 700 "$base/$0" 2>/dev/null && echo "$base/$0" && exit; done; exit 1'
)
#: $0 is the process, $1 the directory's name.
_KILL = """\
end() { kill -s "$1" -- "-$2" 2>/dev/null || kill -s "$1" "$2" 2>/dev/null; }
end TERM "$0" && sleep 2
end KILL "$0"
rm -rf "/run/$1" "/tmp/$1"
"""


#: What a program reads: nothing, all of it, or pieces as they come.
Input: TypeAlias = bytes | Iterable[bytes] | None


class Execution:
    """A program that runs in the guest: `async with` starts it, iteration gives (1 or 2, bytes) until it has ended.

    `status` is then its exit status, 128 + the signal when one ended it. Leaving the block before it has ended makes it
    end, with all that it has started.
    """

    def __init__(self, domain: Domain, argv: Sequence[str], *, stdin: Input, agent_timeout: float) -> None:
        if isinstance(argv, str | bytes):
            raise TypeError("argv is a list of a program and its arguments, not a text: ['sh', '-c', text] runs a line")
        if not argv or not argv[0]:
            raise InvalidArgument("no program was named")
        self.domain = domain
        self.argv = list(argv)
        self.status: int | None = None
        #: Whether the agent dropped output: it keeps 16 MiB, in a guest that has no shell for us.
        self.truncated = False
        self._stdin = stdin
        self._timeout = agent_timeout
        self._name = f"corral-exec-{secrets.token_hex(8)}"
        self._pid = 0
        self._shell = True
        self._outputs = [_Output(self, STDOUT, "o"), _Output(self, STDERR, "e")]

    async def __aenter__(self) -> Self:
        try:
            if self._stdin is None:
                script, data = "sh", _RUN.replace("$input", "</dev/null").encode()
            elif self._with_the_command is not None:
                script, data = _RUN.replace("$input", ""), self._with_the_command
            else:
                pieces = (self._stdin,) if isinstance(self._stdin, bytes) else self._stdin
                script, data = "sh", (await self._brought(pieces) + _RUN.replace("$input", "<&3")).encode()
            self._pid = await self._execute("/bin/sh", ["-c", _LEAD, script, self._name, *self.argv], data)
        except AgentCommandFailed as error:
            if "No such file" not in str(error):
                raise plain(error) from error
            if self._stdin is not None and self._with_the_command is None:
                raise InvalidArgument(
                    f"{self.domain.name} has no shell: its programs take {STDIN_LIMIT >> 20} MiB of input at most",
                    hint=f"bring it as a file: corral cp FILE {self.domain.name}:PATH",
                ) from error
            self._shell = False
            try:
                self._pid = await self._execute(self.argv[0], self.argv[1:], self._with_the_command)
            except AgentCommandFailed as refused:
                raise plain(refused) from refused
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.status is None and self._pid:
            await asyncio.shield(self._kill())
        for output in self._outputs:
            await asyncio.shield(output.close())

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        loop = asyncio.get_running_loop()
        look, pause = loop.time() + PATIENCE, FIRST_LOOK
        while self.status is None:
            ended = await self.ask("guest-exec-status", {"pid": self._pid})
            if ended.get("exited"):
                async for piece in self._rest(ended):
                    yield piece
                self.status = 128 + ended["signal"] if "signal" in ended else int(ended.get("exitcode", 0))
                return
            came = False
            if self._shell and loop.time() >= look:
                for output in self._outputs:
                    if data := await output.read():
                        came = True
                        yield output.number, data
            if came:  # more may be there already
                pause = FIRST_LOOK
                continue
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LAST_LOOK)

    async def ask(self, command: str, arguments: dict[str, Any]) -> Any:
        """What the agent returns for a command."""
        return await self.domain.agent(command, arguments, timeout=self._timeout)

    async def _rest(self, ended: dict[str, Any]) -> AsyncIterator[tuple[int, bytes]]:
        """What had not been read when the program ended: with the agent's word, or in the files."""
        self.truncated = bool(ended.get("out-truncated") or ended.get("err-truncated"))
        told = {STDOUT: ended.get("out-data", ""), STDERR: ended.get("err-data", "")}
        if any(told.values()) or not self._shell:
            for output in self._outputs:
                if data := base64.b64decode(told[output.number])[output.read_bytes :]:
                    yield output.number, data
            return
        for output in self._outputs:
            while data := await output.read():
                yield output.number, data
        if any(output.read_bytes for output in self._outputs):
            await self._execute("/bin/sh", ["-c", 'rm -rf "/run/$0" "/tmp/$0"', self._name])

    @property
    def _with_the_command(self) -> bytes | None:
        """The program's input where it is so little that the command carries it."""
        return self._stdin if isinstance(self._stdin, bytes) and len(self._stdin) <= STDIN_LIMIT else None

    async def _brought(self, pieces: Iterable[bytes]) -> str:
        """Have the guest keep the program's input in a file: the line by which a shell opens and removes it.

        AgentCommandFailed with the guest's reason, such as a full disk; nothing is left then.
        """
        from corral.client.guest_files import write

        pid, pause = await self._execute("/bin/sh", ["-c", _ROOM, self._name]), FIRST_LOOK
        try:
            async with asyncio.timeout(PIECE_TIMEOUT):
                while not (ended := await self.ask("guest-exec-status", {"pid": pid})).get("exited"):
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, LAST_LOOK)
        except TimeoutError as error:
            text = f"{self.domain.name} has made no directory for the program's input within {PIECE_TIMEOUT:g} s"
            raise OperationTimeout(text) from error
        if ended.get("exitcode"):
            raise AgentCommandFailed(f"{self.domain.name} has no directory that takes the program's input")
        room = base64.b64decode(ended["out-data"]).decode().strip()
        try:
            await write(self.domain, f"{room}/input", pieces)
        except BaseException:
            with contextlib.suppress(CorralError):
                await asyncio.shield(self._execute("/bin/sh", ["-c", 'rm -rf "$0"', room]))
            raise
        return f"exec 3<{room}/input && rm -r {room} || exit\n"

    async def _execute(self, path: str, arguments: list[str], stdin: bytes | None = None) -> int:
        request: dict[str, Any] = {"path": path, "arg": arguments, "capture-output": True}
        if stdin is not None:
            request["input-data"] = base64.b64encode(stdin).decode()
        return int((await self.ask("guest-exec", request))["pid"])

    async def _kill(self) -> None:
        """Best effort: the agent has no command for it, the guest's shell does."""
        with contextlib.suppress(CorralError, TimeoutError):
            async with asyncio.timeout(3.0):
                await self._execute("/bin/sh", ["-c", _KILL, str(self._pid), self._name])


class _Output:
    """One of a program's outputs, read from the files that it goes to."""

    def __init__(self, execution: Execution, number: int, letter: str) -> None:
        self.number = number
        #: How much has been given out.
        self.read_bytes = 0
        self._execution = execution
        self._letter = letter
        self._index = 0
        self._handle: int | None = None
        self._next: int | None = None

    async def read(self) -> bytes:
        """What has come since, at most 2 MiB; b"" when there is nothing yet."""
        if self._handle is None:
            self._handle = await self._open(f"{self._letter}{self._index}", "r")
        while self._handle is not None:
            if data := await self._piece(self._handle):
                return data
            if self._next is None:
                self._next = await self._open(f"{self._letter}{self._index + 1}", "r")
                if self._next is None:
                    return b""
                continue  # the file may have grown between our look at it and the next one's coming
            await self._execution.ask("guest-file-close", {"handle": self._handle})
            self._handle, self._next, self._index = self._next, None, self._index + 1
            await self._confirm()
        return b""

    async def close(self) -> None:
        """Let go of its files."""
        with contextlib.suppress(CorralError):
            for handle in (self._handle, self._next):
                if handle is not None:
                    await self._execution.ask("guest-file-close", {"handle": handle})
            self._handle = self._next = None

    async def _piece(self, handle: int) -> bytes:
        request = {"handle": handle, "count": PIECE}
        answer = await self._execution.domain.agent("guest-file-read", request, timeout=PIECE_TIMEOUT)
        data = base64.b64decode(answer.get("buf-b64", ""))
        self.read_bytes += len(data)
        return data

    async def _confirm(self) -> None:
        """The older file is read; the guest may go on with another."""
        handle = await self._open(f"{self._letter}a", "r+")
        if handle is not None:
            await self._execution.ask("guest-file-write", {"handle": handle, "buf-b64": "Cg=="})
            await self._execution.ask("guest-file-close", {"handle": handle})

    async def _open(self, name: str, mode: str) -> int | None:
        """A handle of one of the program's files, or None when it is not there."""
        for base in ("/run", "/tmp"):
            path = f"{base}/{self._execution._name}/{name}"
            with contextlib.suppress(AgentCommandFailed):
                return int(await self._execution.ask("guest-file-open", {"path": path, "mode": mode}))
        return None


def plain(error: AgentCommandFailed) -> AgentCommandFailed:
    """The agent's own words, without those of the daemon and of the agent's wrapping around them."""
    inner = re.search(r"error was '(.*)'", str(error), re.DOTALL) or re.search(r"'[\w-]+': (.*)", str(error), re.DOTALL)
    return AgentCommandFailed(inner[1]) if inner else error
