"""A relay that sees which Bolt version two peers agree on, and can leave them only one.

It owns one port of the loopback address and its threads. It reads the handshake and nothing of what
follows. With `only`, the client's proposals are replaced by that one version: so a current driver
is made to speak an old one, and the same relay stands before the server and before boltmux.
"""

import socket
import struct
import threading

from support import HOST

MAGIC = bytes.fromhex("6060b017")
MANIFEST = bytes.fromhex("000001ff")
CHUNK = 65536


class Relay:
    """Accepts on `port` until closed. `versions` holds what was agreed on, such as {"5.8"}."""

    def __init__(self, server_port, only=None):
        self.server_port = server_port
        self.only = only
        self.versions = set()
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        server = socket.socket()
        try:
            server.connect((HOST, self.server_port))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._shake_hands(client, server)
            back = threading.Thread(target=copy, args=(server, client), daemon=True)
            back.start()
            copy(client, server)
            back.join()
        except (OSError, EOFError):
            pass  # One end is gone: the other is told by the close below.
        finally:
            client.close()
            server.close()

    def _shake_hands(self, client, server):
        offer = receive(client, 20)
        server.sendall(self._narrowed(offer) if offer.startswith(MAGIC) else offer)
        answer = receive(server, 4)
        if answer == MANIFEST:
            # Version ranges, each 4 bytes, and the capabilities. In one write, as it came: the Java
            # driver trips over a manifest that comes in pieces.
            count = receive_varint(server)
            ranges = receive(server, 4 * value_of(count))
            client.sendall(answer + count + ranges + receive_varint(server))
            answer = receive(client, 4)
            server.sendall(answer)
        else:
            client.sendall(answer)
        self.versions.add(f"{answer[3]}.{answer[2]}")

    def _narrowed(self, offer):
        if self.only is None:
            return offer
        major, minor = (int(part) for part in self.only.split("."))
        return MAGIC + struct.pack(">4B", 0, 0, minor, major) + bytes(12)


def receive(source, size):
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise EOFError(f"expected {size} bytes, came {len(data)}")
        data += more
    return data


def receive_varint(source):
    """The bytes of a number of 7 bits per byte."""
    data = receive(source, 1)
    while data[-1] >= 0x80:
        data += receive(source, 1)
    return data


def value_of(varint):
    return sum((byte & 0x7F) << 7 * index for index, byte in enumerate(varint))


def copy(source, target):
    """Until the source ends; then the target's input ends too."""
    try:
        while data := source.recv(CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # It is gone already.
