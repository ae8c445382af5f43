"""`corral metrics`."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from corral.cli.options import Connect
from corral.cli.target import run
from corral.errors import CorralError, HostError, InvalidArgument

LISTEN_EXAMPLE = "9177 or 127.0.0.1:9177 or [::]:9177"
REQUEST_TIMEOUT, REQUEST_MAX = 10.0, 16384


def metrics(
    listen: Annotated[
        str | None, typer.Option("--listen", "-l", metavar="[HOST:]PORT", help="Serve them at /metrics until stopped.")
    ] = None,
    textfile: Annotated[
        Path | None,
        typer.Option("--textfile", metavar="FILE", help="Write them there at once, whole or not at all."),
    ] = None,
    connect: Connect = None,
) -> None:
    """Offer machines' figures to Prometheus: on standard output, in a file, or over HTTP.

    --textfile is for node_exporter's textfile collector. Without a host, --listen is for this computer only.
    """
    if listen is not None:
        run(_serve(connect, *_address(listen)))
    else:
        found = run(_text(connect))
        if textfile is None:
            typer.echo(found.decode(), nl=False)
        else:
            _write(textfile, found)


async def _text(uri: str | None) -> bytes:
    from corral.client.host import connect
    from corral.client.metrics import text

    async with connect(uri) as host:
        return await text(host)


def _write(path: Path, content: bytes) -> None:
    """Put a new file in the place of the old: a reader sees one or the other."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536 or (colon and not host):
        raise InvalidArgument(f"'{listen}' is no address to listen at", hint=f"such as {LISTEN_EXAMPLE}")
    return (host.strip("[]") or "127.0.0.1"), int(port)


async def _serve(uri: str | None, host: str, port: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                request = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
                status, body = await _response(uri, request)
                head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
                writer.write(body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    await _text(uri)  # what keeps us from it is better said now than at every scrape
    try:
        server = await asyncio.start_server(answer, host, port, limit=REQUEST_MAX)
    except OSError as error:
        raise HostError(f"cannot listen at {host} port {port}: {error.strerror}") from error
    typer.echo(f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics", err=True)
    async with server:
        await server.serve_forever()


async def _response(uri: str | None, request: list[bytes]) -> tuple[str, bytes]:
    if len(request) < 3 or request[0] != b"GET":
        return "405 Method Not Allowed", b""
    if request[1].split(b"?")[0] not in (b"/metrics", b"/"):
        return "404 Not Found", b"the metrics are at /metrics\n"
    try:
        return "200 OK", await _text(uri)
    except CorralError as error:
        return "503 Service Unavailable", f"{error}\n".encode()
