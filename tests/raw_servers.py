"""Servers that send bytes as a test has them, over real sockets."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def serving(serve: Callable[[socket.socket], None], **options: Any) -> Iterator[str]:
    """The address of a server that calls `serve` with each connection, in a thread of its own."""
    live: list[socket.socket] = []

    def run(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            serve(sock)

    def accept() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                live.append(sock)
                threading.Thread(target=run, args=(sock,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), **options) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        for sock in [listener, *live]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        thread.join()


def read_request(sock: socket.socket) -> bytes:
    """One request, with the body that it announces; nothing at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := sock.recv(65536)):
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < int(lengths[0].split(b":")[1] if lengths else 0):
        body += sock.recv(65536)
    return head + b"\r\n\r\n" + body


def answering(*answers: bytes, requests: list[bytes] | None = None) -> Callable[..., None]:
    """A server that answers so on each connection, and then closes it."""

    def serve(sock: socket.socket) -> None:
        for answer in answers:
            if request := read_request(sock):
                (requests if requests is not None else []).append(request)
                sock.sendall(answer)

    return serve


def hang(sock: socket.socket) -> None:
    """Wait until the client goes."""
    while sock.recv(65536):
        pass


@contextmanager
def tls_server(
    context: ssl.SSLContext, serve: Callable[[Any], None] | None = None
) -> Iterator[str]:
    def wrapped(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            (serve or answering(WHOLE, WHOLE))(tls)

    with serving(wrapped) as address:
        yield address
