//! Watches and steers: the control core, which no shard ever waits for.

pub mod link;
