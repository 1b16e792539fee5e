"""Just enough of Bolt 5.4 to log in, to stay, and to count the bytes of an answer."""

import socket
import ssl
import struct

HELLO_VERSION = bytes.fromhex("6060b017") + bytes([0, 0, 4, 5]) + bytes(12)
HELLO, LOGON, RUN, PULL = 0x01, 0x6A, 0x10, 0x3F
SUCCESS, RECORD = 0x70, 0x71
RECEIVE_BYTES = 1 << 20
LIMIT_S = 60


def text(value):
    data = value.encode()
    head = bytes([0x80 | len(data)]) if len(data) < 16 else bytes([0xD0, len(data)])
    return head + data


def mapping(**pairs):
    items = b"".join(text(key) + (value if isinstance(value, bytes) else text(value))
                     for key, value in pairs.items())
    return bytes([0xA0 | len(pairs)]) + items


def message(tag, *fields):
    payload = bytes([0xB0 | len(fields), tag]) + b"".join(fields)
    return struct.pack(">H", len(payload)) + payload + b"\0\0"


def trusting():
    """TLS that believes any certificate: what is measured is on this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Refused(Exception):
    """The server or a proxy said what was not expected, or ended the connection."""


class Client:
    """One logged-in connection; over TLS with any certificate if it is told so."""

    def __init__(self, port, user, password, is_encrypted=False):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        if is_encrypted:
            self.socket = trusting().wrap_socket(self.socket)
        self.buffer = b""
        self.socket.sendall(HELLO_VERSION)
        if self.take(4) != bytes([0, 0, 4, 5]):
            raise Refused("expected Bolt 5.4")
        agent = mapping(product="compare/1")
        self.ask(message(HELLO, mapping(user_agent="compare/1", bolt_agent=agent)))
        self.ask(message(LOGON, mapping(scheme="basic", principal=user, credentials=password)))

    def take(self, count):
        while len(self.buffer) < count:
            more = self.socket.recv(RECEIVE_BYTES)
            if not more:
                raise Refused("the connection ended")
            self.buffer += more
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def answer_bytes(self):
        """Reads one message: its tag, and its bytes with everything around them."""
        payload, length = b"", 0
        while True:
            size = struct.unpack(">H", self.take(2))[0]
            length += 2
            if size == 0 and payload:
                return payload[1], length
            payload += self.take(size)
            length += size

    def ask(self, request):
        """Sends a request; bytes of its answer up to the summary, which has to be SUCCESS."""
        self.socket.sendall(request)
        total = 0
        while True:
            tag, length = self.answer_bytes()
            total += length
            if tag == SUCCESS:
                return total
            if tag != RECORD:
                raise Refused(f"expected SUCCESS, got tag {tag:#x}")

    def query_bytes(self, query):
        """Bytes of a whole result, as boltload asks for it: with a nonce of 32 characters."""
        total = self.ask(message(RUN, text(query), mapping(nonce="0" * 32), mapping()))
        return total + self.ask(message(PULL, mapping(n=b"\xff")))

    def close(self):
        self.socket.close()
