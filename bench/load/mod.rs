//! The load generator: Bolt clients that check every answer and measure several targets in the
//! rounds of one run, so that they can be compared; closed loop, or open loop at a fixed rate.
//!
//! ```text
//! conductor (caller's thread)        worker (one executor per load thread)
//!   orders by channel and mailbox ->   client tasks -> Session (pure) -> transport
//!   <- counts by channel
//! ```
//!
//! Owns clients, their checks and the arithmetic. Does not own sockets (`transport`) nor the
//! protocol (`wire`); uses nothing else of the program. Used by `boltload` and by the demo.
//!
//! Invariants: a request is asked once and never repeated; each wait ends by a deadline; an answer
//! counts only if every record of it holds the nonce of its own request.

mod client;
mod conductor;
mod cpu;
mod curve;
mod inbox;
pub mod mix;
mod pacer;
mod plan;
mod report;
mod request;
mod rounds;
mod schedule;
mod script;
mod session;
mod tally;
#[cfg(test)]
mod tests;
mod worker;

pub use conductor::{Progress, run};
pub use cpu::time_used as cpu_time_used;
pub use plan::{Plan, Process, Shape, Target};
pub use report::{Latency, Ratios, Report, Round, TargetReport};
pub use rounds::Spread;
pub use tally::Tally;
