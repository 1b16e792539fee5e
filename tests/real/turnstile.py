"""A relay before a server that knows how many connections the server has, at every instant.

    turnstile.py PORT SERVER_PORT

A connection counts from its accept until the server has ended its side, whatever the client does.
Who waits for that end before it opens the next connection is never seen to have one too many: the
count falls before the end is passed on. Looking at the server's own list proves less, since a
server may list a connection for some time after it has ended it (Neo4j 5.26 takes it off the list
when its socket is closed already).

Writes a line for each new maximum. A process of its own, for the test's many threads would hold it
up.
"""

import asyncio
import os
import re
import sys

from support import CACHE, HOST, Process, free_port

READY_LIMIT_S = 20  # It is ready in a tenth of a second; a busy machine may need seconds.
CHUNK = 65536
MOST = re.compile(r"^most (\d+)$", re.MULTILINE)


class Turnstile:
    """Runs it before the server on `server_port`; `port` is its own."""

    def __init__(self, server_port):
        self.port = free_port()
        argv = [sys.executable, os.path.abspath(__file__), str(self.port), str(server_port)]
        os.makedirs(os.path.join(CACHE, "run"), exist_ok=True)
        self.process = Process(argv, os.path.join(CACHE, "run", "turnstile.log"))

    def __enter__(self):
        # Not by connecting: that would count.
        self.process.wait_for(MOST.search, READY_LIMIT_S, "the turnstile to accept")
        return self

    def __exit__(self, *_):
        self.process.kill()

    def most(self):
        """The most connections that the server has had at once."""
        return max((int(found) for found in MOST.findall(self.process.output())), default=0)


class Count:
    def __init__(self):
        self.open = self.most = 0

    def up(self):
        self.open += 1
        if self.open > self.most:
            self.most = self.open
            print(f"most {self.most}", flush=True)

    def down(self):
        self.open -= 1


async def serve(client, server_port, count):
    count.up()
    client_in, client_out = client
    try:
        server_in, server_out = await asyncio.open_connection(HOST, server_port)
    except OSError:
        count.down()
        return client_out.close()
    requests = asyncio.create_task(copy(client_in, server_out))
    await copy(server_in, client_out, count.down)
    requests.cancel()
    for end in (client_out, server_out):
        end.close()


async def copy(source, target, at_end=lambda: None):
    """Until the source ends; then the target hears of it. A target that is gone swallows all."""
    try:
        while data := await source.read(CHUNK):
            target.write(data)
            await drained(target)
    except OSError:
        pass  # A reset is an end as well.
    at_end()
    try:
        if not target.is_closing():
            target.write_eof()
    except OSError:
        pass  # It is gone already.


async def drained(target):
    try:
        await target.drain()
    except OSError:
        pass  # Its own reading side tells when it has ended.


async def main(port, server_port):
    count = Count()

    async def accepted(*client):
        await serve(client, server_port, count)

    server = await asyncio.start_server(accepted, HOST, port)
    print("most 0", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*(int(word) for word in sys.argv[1:])))
