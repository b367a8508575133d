"""A TCP proxy before a real S3 server that makes faults on demand.

    with FaultProxy(s3_server.endpoint) as proxy:
        fault = proxy.add(Fault("swallow", "PUT .*/audio/", count=1))
        ...  # clients use proxy.endpoint
        assert fault.hits == 1

It runs on a thread of the process that makes it; its clients may be other processes. Requests reach the server as they
were signed, so credentials and conditions are checked by the real server.
"""

import asyncio
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

from tests.faults.fault import Fault, Mode

_CHUNK = 1 << 14


class FaultProxy:
    """The proxy, listening on loopback from `with` on. `requests` counts by method, `hits` by mode of fault.

    `add` and `clear` may be called at any time; `stop_listening` and `listen` refuse connections for a while, as a
    store that is down does, at the same port.
    """

    def __init__(self, server: str):
        parts = urlsplit(server)
        self._server = (parts.hostname, parts.port)
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._connections: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self.port = 0
        self.on_request: Callable[[str], object] = lambda line: None  # called with each request's line
        self.requests: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()

    @property
    def endpoint(self) -> str:
        """The URL that clients use instead of the server's."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.stop_listening()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def add(self, fault: Fault) -> Fault:
        """Make a fault from now on, beside the others; the first that matches a request hits it."""
        fault.begin()
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Make no more faults. What is held back stays so until its client gives up."""
        with self._lock:
            self._faults.clear()

    @property
    def is_listening(self) -> bool:
        """Whether it accepts connections."""
        return self._listener is not None

    def listen(self) -> None:
        """Accept connections (again)."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def stop_listening(self) -> None:
        """Close all connections and refuse new ones."""
        asyncio.run_coroutine_threadsafe(self._stop_listening(), self._loop).result(10)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=1 << 20)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _find_fault(self, request_line: str) -> Fault | None:
        with self._lock:
            fault = next((fault for fault in self._faults if fault.takes(request_line)), None)
        self.requests[request_line.partition(" ")[0]] += 1
        self.on_request(request_line)
        if fault is not None:
            self.hits[fault.mode] += 1
        return fault

    async def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._connections.add(task)
        to_server: asyncio.StreamWriter | None = None
        try:
            from_server, to_server = await asyncio.open_connection(*self._server)
            connection = _Connection(client, to_client, from_server, to_server)
            while True:
                head = await client.readuntil(b"\r\n\r\n")
                line = head.partition(b" HTTP/")[0].decode("latin1")
                if not await connection.serve(head, line, self._find_fault(line)):
                    return
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # a peer has gone, or the proxy ends
        finally:
            self._connections.discard(task)
            for writer in filter(None, (to_client, to_server)):
                writer.close()


@dataclass(eq=False)
class _Connection:
    """One client's connection and the one to the server that belongs to it."""

    client: asyncio.StreamReader
    to_client: asyncio.StreamWriter
    from_server: asyncio.StreamReader
    to_server: asyncio.StreamWriter
    reusable: bool = True

    async def serve(self, head: bytes, line: str, fault: Fault | None) -> bool:
        """Serve one request; return whether the connection can serve another."""
        mode = fault.mode if fault else None
        expects_continue = _header(head, b"expect") is not None
        if mode == "swallow":
            return await self._hold()
        if mode == "reset":
            linger = struct.pack("ii", 1, 0)  # close() then sends RST
            self.to_client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.to_client.transport.abort()
            return False
        if mode == "status":
            if not expects_continue:
                await _pass_body(self.client, head, None)
            await self._answer(fault, has_body=not line.startswith("HEAD"))
            return False
        if mode == "swallow_body":
            if expects_continue:
                self.to_client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await _pass_body(self.client, head, None)
            return await self._hold()
        if mode == "delay":
            await asyncio.sleep(fault.seconds_late)
        pace = fault.bytes_per_s if mode == "throttle" else None
        reply = await self._forward(head, expects_continue, pace)
        return await self._return_reply(reply, line, mode, pace)

    async def _forward(self, head: bytes, expects_continue: bool, pace: float | None) -> bytes:
        """Send the request to the server; return the head of its reply."""
        self.to_server.write(head)
        if expects_continue:
            reply = await self.from_server.readuntil(b"\r\n\r\n")
            if _status(reply) != 100:  # refused; whether the body comes nevertheless is up to the client
                self.reusable = False
                return reply
            self.to_client.write(reply)
        await _pass_body(self.client, head, self.to_server, pace)
        reply = await self.from_server.readuntil(b"\r\n\r\n")
        while _status(reply) == 100:
            reply = await self.from_server.readuntil(b"\r\n\r\n")
        return reply

    async def _return_reply(self, reply: bytes, line: str, mode: Mode | None, pace: float | None) -> bool:
        has_body = not line.startswith("HEAD") and _status(reply) not in (204, 304)
        if mode in ("drop_reply", "hang_reply"):
            if has_body:
                await _pass_body(self.from_server, reply, None)
            return await self._hold() if mode == "hang_reply" else False
        self.to_client.write(reply)
        if mode in ("cut_reply", "stall_reply"):
            size = int(_header(reply, b"content-length") or 0) if has_body else 0
            self.to_client.write(await self.from_server.readexactly(size // 2))
            await self.to_client.drain()
            return await self._hold() if mode == "stall_reply" else False
        if has_body:
            await _pass_body(self.from_server, reply, self.to_client, pace)
        await self.to_client.drain()
        return self.reusable and (_header(reply, b"connection") or b"").lower() != b"close"

    async def _hold(self) -> bool:
        """Keep the connection open without a word until the client closes it."""
        while await self.client.read(_CHUNK):
            pass
        return False

    async def _answer(self, fault: Fault, has_body: bool) -> None:
        body = (
            f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>made by a test</Message></Error>".encode()
        )
        head = f"HTTP/1.1 {fault.status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
        self.to_client.write(head.encode() + b"Connection: close\r\n\r\n" + (body if has_body else b""))
        await self.to_client.drain()


def _header(head: bytes, name: bytes) -> bytes | None:
    match = re.search(rb"\r\n" + name + rb":[ \t]*([^\r]*)", head, re.IGNORECASE)
    return match.group(1).strip() if match else None


def _status(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1])


async def _pass_body(
    source: asyncio.StreamReader, head: bytes, sink: asyncio.StreamWriter | None, pace: float | None = None
) -> None:
    """Read the body that a head announces and send it on (None: nowhere), at most `pace` bytes a second."""

    async def pass_bytes(size: int) -> None:
        while size:
            chunk = await source.read(min(size, _CHUNK))
            if not chunk:
                raise ConnectionError
            size -= len(chunk)
            if sink is not None:
                sink.write(chunk)
                await sink.drain()
            if pace is not None:
                await asyncio.sleep(len(chunk) / pace)

    if b"chunked" not in (_header(head, b"transfer-encoding") or b"").lower():
        return await pass_bytes(int(_header(head, b"content-length") or 0))
    while True:
        line = await source.readuntil(b"\r\n")
        if sink is not None:
            sink.write(line)
        size = int(line.partition(b";")[0], 16)
        await pass_bytes(size + 2)
        if size == 0:
            return None
