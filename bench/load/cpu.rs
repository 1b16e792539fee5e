//! How much processor time a process has used, as the kernel counts it.

use std::fs;
use std::time::Duration;

/// The unit of the times in `/proc/PID/stat`: USER_HZ, which is 100 on every Linux this runs on.
const TICKS_PER_SECOND: u32 = 100;

/// User and system time of a process with all its threads so far, to 10 ms.
pub fn time_used(pid: u32) -> Result<Duration, String> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(|error| {
        format!("cannot read {path}: {error}; is the process still there, and on this machine?")
    })?;
    parse_stat(&text).ok_or_else(|| format!("{path} does not look like proc(5) says: {text:?}"))
}

/// Fields 14 and 15 of proc(5), counted behind the name, which may hold spaces and parentheses
/// itself.
fn parse_stat(text: &str) -> Option<Duration> {
    let (_, behind_name) = text.rsplit_once(") ")?;
    let mut fields = behind_name.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    let total = ticks()?.checked_add(ticks()?)?;
    Some(Duration::from_secs(1) * total / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_name_with_parentheses() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 900 0 3 0 150 25 7 8 20 0 9 0 77 1 2";
        assert_eq!(parse_stat(stat), Some(Duration::from_millis(1750)));
        assert_eq!(parse_stat("42 (a"), None);
        assert_eq!(parse_stat("42 (a) S 1 2"), None);
    }

    #[test]
    fn this_process_has_used_time_and_a_missing_one_is_named() {
        assert!(time_used(std::process::id()).is_ok());
        assert!(time_used(u32::MAX).unwrap_err().contains("4294967295"));
    }
}
