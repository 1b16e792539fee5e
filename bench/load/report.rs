//! What a run has measured, as numbers, a table and JSON. Pure.

use super::plan::{Plan, Target};
use super::rounds::{Spread, paired_ratios};
use super::tally::Tally;
use crate::wire::version::Version;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// A generator that uses more of its threads than this is what is measured, not the target.
const BUSY_SHARE_MAX: f64 = 0.9;

/// One target in one round, as it was measured.
#[derive(Clone, Debug)]
pub struct Measurement {
    pub round: usize,
    pub target: usize,
    pub time: Duration,
    pub tally: Tally,
    /// CPU time of the target's processes, if any were named.
    pub cpu: Option<Duration>,
    /// CPU time of this process.
    pub generator_cpu: Option<Duration>,
    /// It was not ended before its time or its number of requests.
    pub is_whole: bool,
}

/// What went wrong with a target before the first round.
pub struct Early {
    pub tally: Tally,
    /// Nobody could log in, so no round measures it.
    pub is_lame: bool,
}

/// One target in one round, in numbers; the histogram is kept for all rounds together only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    pub seconds: f64,
    pub requests: u64,
    pub requests_per_second: f64,
    /// `None` if nothing was answered.
    pub latency_ms: Option<Latency>,
    pub cpu_us_per_request: Option<f64>,
    pub errors: u64,
    pub mismatches: u64,
}

impl Round {
    fn of(measurement: &Measurement) -> Round {
        let tally = &measurement.tally;
        let seconds = measurement.time.as_secs_f64();
        Round {
            seconds,
            requests: tally.requests,
            requests_per_second: tally.requests as f64 / seconds.max(f64::MIN_POSITIVE),
            latency_ms: Latency::of(tally),
            cpu_us_per_request: cpu_us_per_request(measurement.cpu, tally.requests),
            errors: tally.errors_total(),
            mismatches: tally.mismatches,
        }
    }
}

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

impl Latency {
    /// `None` if nothing was answered.
    pub fn of(tally: &Tally) -> Option<Latency> {
        (!tally.latency.is_empty()).then(|| Latency {
            p50: tally.quantile_ms(0.5),
            p90: tally.quantile_ms(0.9),
            p99: tally.quantile_ms(0.99),
            p99_9: tally.quantile_ms(0.999),
            max: tally.max_ms(),
        })
    }

    fn to_json(self) -> Value {
        json!({
            "p50": self.p50,
            "p90": self.p90,
            "p99": self.p99,
            "p99.9": self.p99_9,
            "max": self.max,
        })
    }
}

fn cpu_us_per_request(cpu: Option<Duration>, requests: u64) -> Option<f64> {
    cpu.filter(|_| requests > 0).map(|cpu| cpu.as_secs_f64() * 1e6 / requests as f64)
}

/// How a target compares with the first one, over the rounds that measured both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ratios {
    pub rate: Option<Spread>,
    pub p50: Option<Spread>,
    pub p99: Option<Spread>,
    pub cpu_per_request: Option<Spread>,
}

#[derive(Clone, Debug)]
pub struct TargetReport {
    pub name: String,
    pub address: SocketAddr,
    /// Nobody could log in at the start, so it was not measured.
    pub is_lame: bool,
    /// What was negotiated last.
    pub version: Option<Version>,
    /// Measured time, all rounds together.
    pub seconds: f64,
    /// All rounds together.
    pub tally: Tally,
    /// CPU time of its processes over the rounds that have it: a process may end before the run.
    pub cpu: Option<Duration>,
    /// Of those rounds.
    pub requests_with_cpu: u64,
    /// By round; `None` where the run was stopped before.
    pub rounds: Vec<Option<Round>>,
    /// `None` for the first target.
    pub ratios: Option<Ratios>,
}

impl TargetReport {
    pub fn requests(&self) -> u64 {
        self.tally.requests
    }

    pub fn requests_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.tally.requests as f64 / self.seconds } else { 0.0 }
    }

    pub fn cpu_us_per_request(&self) -> Option<f64> {
        cpu_us_per_request(self.cpu, self.requests_with_cpu)
    }

    fn add(&mut self, measurement: &Measurement) {
        self.seconds += measurement.time.as_secs_f64();
        self.tally.add(&measurement.tally);
        if let Some(cpu) = measurement.cpu {
            self.cpu = Some(self.cpu.unwrap_or_default() + cpu);
            self.requests_with_cpu += measurement.tally.requests;
        }
        self.rounds[measurement.round] = Some(Round::of(measurement));
    }

    pub fn errors(&self) -> &BTreeMap<String, u64> {
        &self.tally.errors
    }

    pub fn mismatches(&self) -> u64 {
        self.tally.mismatches
    }
}

#[derive(Clone, Debug)]
pub struct Report {
    pub shape: String,
    pub clients: usize,
    pub threads: usize,
    /// Of the open loop: what was wanted, per second.
    pub rate: Option<f64>,
    pub targets: Vec<TargetReport>,
    /// Share of its threads that the load generator itself used while it measured.
    pub generator_busy: Option<f64>,
    /// The run was ended before its time.
    pub was_stopped: bool,
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        measurements: Vec<Measurement>,
        early: Vec<Early>,
        versions: &[Option<Version>],
    ) -> Report {
        let measured = early.iter().filter(|early| !early.is_lame).count();
        let was_stopped = measurements.len() < plan.rounds * measured
            || measurements.iter().any(|measurement| !measurement.is_whole);
        let mut targets: Vec<TargetReport> = plan.targets.iter().zip(versions).map(empty).collect();
        for (target, early) in targets.iter_mut().zip(early) {
            target.rounds = vec![None; plan.rounds];
            target.is_lame = early.is_lame;
            target.tally.add(&early.tally);
        }
        for measurement in &measurements {
            targets[measurement.target].add(measurement);
        }
        let first = targets[0].rounds.clone();
        for target in &mut targets[1..] {
            target.ratios = Some(ratios(&target.rounds, &first));
        }
        Report {
            shape: plan.shape.to_string(),
            clients: plan.clients,
            threads: plan.threads,
            rate: plan.rate,
            targets,
            generator_busy: generator_busy(&measurements, plan.threads),
            was_stopped,
        }
    }

    pub fn has_mismatches(&self) -> bool {
        self.targets.iter().any(|target| target.mismatches() > 0)
    }

    /// No errors, no mismatches, and every target has answered something.
    pub fn is_clean(&self) -> bool {
        self.targets.iter().all(|target| {
            let has_answers = !target.tally.latency.is_empty();
            target.tally.errors_total() == 0 && target.mismatches() == 0 && has_answers
        })
    }

    pub fn to_table(&self) -> String {
        let has_cpu = self.targets.iter().any(|target| target.cpu_us_per_request().is_some());
        let mut head: Vec<&str> =
            vec!["target", "bolt", "requests/s", "p50", "p90", "p99", "p99.9"];
        head.extend(["max ms", "errors", "mismatches", "ratio [quartiles]"]);
        head.extend(has_cpu.then_some("CPU us/request"));
        let mut rows = vec![head.into_iter().map(String::from).collect::<Vec<_>>()];
        rows.extend(self.targets.iter().map(|target| table_row(target, has_cpu)));
        let mut text = align(&rows);
        let rate = self.rate.map(|rate| format!(", open loop, {rate} requests/s wanted"));
        let _ = writeln!(
            text,
            "{}, {} clients, {} thread(s){}; latencies in ms",
            self.shape,
            self.clients,
            self.threads,
            rate.unwrap_or_default()
        );
        for target in &self.targets {
            if target.is_lame {
                let _ = writeln!(
                    text,
                    "{} at {} was not measured: the first login failed",
                    target.name, target.address
                );
            }
            if target.tally.unasked > 0 {
                let _ = writeln!(
                    text,
                    "{}: {} requests were due and no client was free: it cannot keep up, or \
                     --clients is too small",
                    target.name, target.tally.unasked
                );
            }
            if target.tally.unanswered > 0 {
                let _ = writeln!(
                    text,
                    "{}: {} x no answer yet when the run was stopped",
                    target.name, target.tally.unanswered
                );
            }
            for (kind, count) in target.errors() {
                let _ = writeln!(text, "{}: {count} x {kind}", target.name);
            }
        }
        // In the open loop it turns while a moment is near, which is no sign of anything.
        let busy = self.generator_busy.filter(|_| self.rate.is_none());
        if let Some(busy) = busy.filter(|busy| *busy > BUSY_SHARE_MAX) {
            let _ = writeln!(
                text,
                "boltload itself was busy ({:.0} % of its threads): add --threads",
                busy * 100.0
            );
        }
        if self.was_stopped {
            text.push_str("stopped before its time\n");
        }
        text
    }

    pub fn to_json(&self) -> Value {
        json!({
            "shape": self.shape,
            "clients": self.clients,
            "threads": self.threads,
            "rate_wanted": self.rate,
            "generator_busy": self.generator_busy,
            "was_stopped": self.was_stopped,
            "is_clean": self.is_clean(),
            "targets": self.targets.iter().map(target_json).collect::<Vec<_>>(),
        })
    }
}

fn empty((target, version): (&Target, &Option<Version>)) -> TargetReport {
    TargetReport {
        name: target.name.clone(),
        address: target.address,
        is_lame: false,
        version: *version,
        seconds: 0.0,
        tally: Tally::default(),
        cpu: None,
        requests_with_cpu: 0,
        rounds: Vec::new(),
        ratios: None,
    }
}

/// The share of its threads that the load generator used while it measured.
fn generator_busy(measurements: &[Measurement], threads: usize) -> Option<f64> {
    let time: Duration = measurements.iter().map(|measurement| measurement.time).sum();
    let cpu: Option<Duration> = measurements.iter().map(|one| one.generator_cpu).sum();
    let time = time.as_secs_f64() * threads as f64;
    cpu.filter(|_| time > 0.0).map(|cpu| cpu.as_secs_f64() / time)
}

fn ratios(rounds: &[Option<Round>], first: &[Option<Round>]) -> Ratios {
    let paired = |value: &dyn Fn(&Round) -> Option<f64>| {
        let values = |rounds: &[Option<Round>]| -> Vec<Option<f64>> {
            rounds.iter().map(|round| value(round.as_ref()?)).collect()
        };
        Spread::of(&paired_ratios(&values(rounds), &values(first)))
    };
    Ratios {
        rate: paired(&|round| Some(round.requests_per_second)),
        p50: paired(&|round| Some(round.latency_ms?.p50)),
        p99: paired(&|round| Some(round.latency_ms?.p99)),
        cpu_per_request: paired(&|round| round.cpu_us_per_request),
    }
}

fn table_row(target: &TargetReport, has_cpu: bool) -> Vec<String> {
    let version = target.version.map_or("-".into(), |version| version.to_string());
    let mut row =
        vec![target.name.clone(), version, format!("{:.0}", target.requests_per_second())];
    let latency = Latency::of(&target.tally).map(|ms| [ms.p50, ms.p90, ms.p99, ms.p99_9, ms.max]);
    row.extend((0..5).map(|at| latency.map_or("-".into(), |ms| format!("{:.3}", ms[at]))));
    row.push(target.tally.errors_total().to_string());
    row.push(target.mismatches().to_string());
    let rate = target.ratios.as_ref().and_then(|ratios| ratios.rate);
    row.push(rate.map_or("-".into(), |rate| {
        format!("{:.2} [{:.2}-{:.2}]", rate.median, rate.low, rate.high)
    }));
    if has_cpu {
        row.push(target.cpu_us_per_request().map_or("-".into(), |cpu| format!("{cpu:.2}")));
    }
    row
}

/// Columns as wide as their widest cell; the first one to the left, the others to the right.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let _ = write!(text, "{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

fn target_json(target: &TargetReport) -> Value {
    let spread = |spread: Option<Spread>| {
        spread.map(|spread| json!({"q1": spread.low, "median": spread.median, "q3": spread.high}))
    };
    let round = |round: &Option<Round>| {
        round.map(|round| {
            json!({
                "seconds": round.seconds,
                "requests": round.requests,
                "requests_per_second": round.requests_per_second,
                "latency_ms": round.latency_ms.map(Latency::to_json),
                "cpu_us_per_request": round.cpu_us_per_request,
                "errors": round.errors,
                "mismatches": round.mismatches,
            })
        })
    };
    let tally = &target.tally;
    json!({
        "name": target.name,
        "address": target.address.to_string(),
        "bolt": target.version.map(|version| version.to_string()),
        "seconds": target.seconds,
        "requests": tally.requests,
        "records": tally.records,
        "requests_per_second": target.requests_per_second(),
        "latency_ms": Latency::of(tally).map(Latency::to_json),
        "errors": tally.errors,
        "mismatches": tally.mismatches,
        "unasked": tally.unasked,
        "unanswered": tally.unanswered,
        "was_measured": !target.is_lame,
        "cpu_us_per_request": target.cpu_us_per_request(),
        "ratio_to_first": target.ratios.as_ref().map(|ratios| json!({
            "requests_per_second": spread(ratios.rate),
            "p50": spread(ratios.p50),
            "p99": spread(ratios.p99),
            "cpu_us_per_request": spread(ratios.cpu_per_request),
        })),
        "rounds": target.rounds.iter().map(round).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_is_of_the_rounds_that_have_it() {
        let target = Target {
            name: "a".into(),
            address: ([127, 0, 0, 1], 1).into(),
            user: String::new(),
            password: String::new(),
            version: None,
            tls: None,
            is_websocket: false,
        };
        let plan = Plan { targets: vec![target], rounds: 2, ..Plan::default() };
        let round = |round: usize, cpu: Option<Duration>| Measurement {
            round,
            target: 0,
            time: Duration::from_secs(1),
            tally: Tally { requests: 100, ..Tally::default() },
            cpu,
            generator_cpu: None,
            is_whole: true,
        };
        // The process has ended within the second round.
        let measured = vec![round(0, Some(Duration::from_millis(5))), round(1, None)];
        let early = vec![Early { tally: Tally::default(), is_lame: false }];
        let report = Report::new(&plan, measured, early, &[None]);
        assert_eq!(report.targets[0].cpu_us_per_request(), Some(50.0));
        assert_eq!(report.targets[0].requests(), 200);
    }
}
