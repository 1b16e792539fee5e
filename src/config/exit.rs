//! Exit statuses, the same for every word of the command line.

/// It did what it was asked to.
pub const DONE: u8 = 0;
/// It could not.
pub const FAILED: u8 = 1;
/// Wrong usage or configuration; 2 as shells and most programs have it.
pub const USAGE: u8 = 2;
/// The system refuses what the program cannot do without, io_uring or memory (`EX_CONFIG` of
/// sysexits.h, which supervisors know not to restart on).
pub const REFUSED: u8 = 78;
