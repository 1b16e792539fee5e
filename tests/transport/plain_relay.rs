//! The plain relay that the tests drive a shard with: one server connection per client, no Bolt.

use boltmux::transport::conn::Conn;
use boltmux::transport::driver::Driver;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Accepts for ever on one listener; every client gets a task.
pub async fn serve(driver: Rc<Driver>, listener: u32, server: SocketAddr) {
    loop {
        let client = driver.accept_on(listener).await;
        let task = relay(driver.clone(), client, server);
        driver.spawn(task);
    }
}

/// From the first byte to the last: dial, forward both ways, close both.
pub async fn relay(driver: Rc<Driver>, client: Conn, server: SocketAddr) {
    let Ok(server) = driver.dial(server).await else {
        return client.close().await;
    };
    let _ = forward(&client, &server).await;
    both(client.close(), server.close()).await;
}

/// Until both directions have ended, or one of the two connections has failed.
async fn forward(client: &Conn, server: &Conn) -> io::Result<()> {
    let (mut up, mut down) = (Half::new(client, server), Half::new(server, client));
    poll_fn(|cx| {
        let (up, down) = (up.poll(cx), down.poll(cx));
        match (up, down) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    })
    .await
}

/// One direction.
struct Half<'a> {
    from: &'a Conn,
    to: &'a Conn,
    phase: Phase,
}

enum Phase {
    Forwarding,
    /// `from` has ended; its last bytes are on their way to `to`.
    Flushing,
    Ended,
}

impl<'a> Half<'a> {
    fn new(from: &'a Conn, to: &'a Conn) -> Half<'a> {
        Half { from, to, phase: Phase::Forwarding }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.phase {
                Phase::Forwarding => {
                    if self.to.poll_ready(cx)?.is_pending() {
                        return self.wait_for_room(cx);
                    }
                    match ready!(self.from.poll_recv(cx))? {
                        Some(chunk) => self.to.send([chunk]),
                        None => self.phase = Phase::Flushing,
                    }
                }
                Phase::Flushing => {
                    ready!(self.to.poll_flushed(cx))?;
                    self.to.shutdown();
                    self.phase = Phase::Ended;
                }
                Phase::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl Half<'_> {
    /// `to` is slow: `from` is not asked for more, but watched.
    fn wait_for_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.to.has_room()
            && let Some(chunk) = self.from.take_received()
        {
            self.to.send([chunk]);
        }
        ready!(self.from.poll_dead(cx));
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

async fn both(first: impl Future<Output = ()>, second: impl Future<Output = ()>) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut first_done, mut second_done) = (false, false);
    poll_fn(|cx| {
        first_done = first_done || first.as_mut().poll(cx).is_ready();
        second_done = second_done || second.as_mut().poll(cx).is_ready();
        if first_done && second_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
