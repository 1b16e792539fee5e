//! The metrics as text for Prometheus (OpenMetrics 1.0), made anew of plain counts at each request.
//!
//! Families are tables: a name, a help text, and where in `ShardCounters` the number is. Counts are
//! summed over the shards; per shard there is only what shows an uneven spread.

use crate::backend::Discard;
use crate::control::certificates::Status;
use crate::counters::{ShardCounters, Tally};
use crate::relay::close::CloseReason;
use crate::transport::stream::Layers;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::borrow::Cow;
use std::fmt;

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PREFIX: &str = "boltmux";

/// Everything that one answer tells.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// The latest counts, by shard.
    pub shards: Vec<ShardCounters>,
    /// Host and port, as configured.
    pub server: String,
    pub is_reachable: bool,
    /// Of the whole process.
    pub permits_taken: u32,
    pub permits_limit: u32,
    pub certificates: Status,
}

/// The whole text.
pub fn render(scrape: Scrape) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(scrape));
    let mut body = String::new();
    text::encode(&mut body, &registry)?;
    Ok(body)
}

type Field = fn(&ShardCounters) -> u64;
/// Name without prefix and `_total`, help, number.
type Family = (&'static str, &'static str, Field);

const COUNTERS: &[Family] = &[
    ("relayed_bytes", "Bytes sent straight out of the buffers they came in", |c| c.relayed_bytes),
    ("copied_bytes", "Bytes copied in user space on their way", |c| c.copied_bytes),
    ("clients_accepted", "Clients accepted", |c| c.accepted),
    ("accept_pauses", "Times that accepting paused for want of descriptors", |c| c.accept_pauses),
    ("leases_acquired", "Server connections lent to clients", |c| c.leases_acquired),
    ("leases_returned", "Server connections given back by clients", |c| c.leases_returned),
    ("leases_waited", "Leases that a client had to wait for", |c| c.leases_waited),
    ("leases_returned_twice", "Returns of a lease already returned: a defect", |c| {
        c.double_returns
    }),
    ("dial_failures", "Dials or logins to the server that failed", |c| c.dial_failures),
    ("failures_made", "FAILUREs that boltmux itself has answered", |c| c.failures_made),
    ("over_budget", "Connections that failed for want of heap budget", |c| c.over_budget),
    ("ring_enters", "System calls of the private rings", |c| c.enters),
    ("pauses_caught", "Pauses that ended while a shard looked for messages", |c| c.pauses_caught),
];

/// Counters with the server as label.
const SERVER_COUNTERS: &[Family] = &[
    ("server_opened", "Server connections opened", |c| c.servers_opened),
    ("server_closed", "Server connections closed", |c| c.servers_closed),
    ("server_lent", "Idle server connections lent to another shard", |c| c.servers_lent),
    ("server_borrowed", "Idle server connections borrowed from another shard", |c| {
        c.servers_borrowed
    }),
    ("server_turned_over", "Idle server connections logged on as another user", |c| {
        c.servers_turned_over
    }),
];

const CLIENT_STATES: &[(&str, Field)] =
    &[("login", |c| c.clients_logging_in), ("serving", |c| c.clients_serving)];

const SERVER_STATES: &[(&str, Field)] =
    &[("leased", |c| c.servers_leased), ("idle", |c| c.servers_idle), ("busy", |c| c.servers_busy)];

/// One number of a family, and its labels.
type Sample<'a, const N: usize> = ([(&'a str, &'a str); N], u64);

impl Scrape {
    fn sum(&self, field: Field) -> u64 {
        self.shards.iter().map(field).sum()
    }

    fn clients(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let states = CLIENT_STATES.iter().map(|(state, field)| ([("state", *state)], *field));
        let samples = states.map(|(labels, field)| (labels, self.sum(field)));
        gauge(encoder, "client_connections", "Clients connected now", samples)?;
        let by_layers = |field: fn(&ShardCounters) -> &Tally<4>| {
            Layers::ALL.iter().map(move |layers| {
                let counts = self.shards.iter().map(|counts| field(counts)[*layers as usize]);
                ([("transport", layers.name())], counts.sum())
            })
        };
        let help = "Clients connected now whose handshake has come, by what lies around it";
        gauge(encoder, "clients", help, by_layers(|counts| &counts.clients_by_layers))?;
        let help = "Clients whose handshake has come, by what lies around it";
        counter(encoder, "clients_entered", help, by_layers(|counts| &counts.entered))?;
        let waiting = [([], self.sum(|c| c.clients_waiting))];
        let help = "Clients, of those connected, that wait for a server connection now";
        gauge(encoder, "clients_waiting", help, waiting)?;
        let numbers: Vec<String> = (0..self.shards.len()).map(|shard| shard.to_string()).collect();
        let shards = numbers.iter().zip(&self.shards);
        let samples = shards.map(|(number, counts)| {
            ([("shard", number.as_str())], counts.clients_logging_in + counts.clients_serving)
        });
        gauge(encoder, "shard_client_connections", "Clients connected now, by shard", samples)?;
        let reasons = CloseReason::ALL.iter().enumerate();
        let samples = reasons.map(|(index, reason)| {
            let count = self.shards.iter().map(|counts| counts.closed[index]).sum();
            ([("reason", reason.name())], count)
        });
        counter(encoder, "closed", "Client connections closed", samples)
    }

    fn servers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let server = ("server", self.server.as_str());
        let states = SERVER_STATES.iter();
        let samples = states.map(|(state, field)| ([server, ("state", state)], self.sum(*field)));
        gauge(encoder, "server_connections", "Server connections now", samples)?;
        let limit = [([server], u64::from(self.permits_limit))];
        gauge(encoder, "server_connections_limit", "Server connections allowed at once", limit)?;
        let taken = [([server], u64::from(self.permits_taken))];
        let help = "Permits for server connections taken now, those of dials and probes included";
        gauge(encoder, "server_permits_taken", help, taken)?;
        let reachable = [([server], u64::from(self.is_reachable))];
        gauge(encoder, "server_reachable", "Whether the last probe succeeded", reachable)?;
        for (name, help, field) in SERVER_COUNTERS {
            counter(encoder, name, help, [([server], self.sum(*field))])?;
        }
        let reasons = Discard::ALL.iter().enumerate();
        let samples = reasons.map(|(index, reason)| {
            let count = self.shards.iter().map(|counts| counts.discarded[index]).sum();
            ([("reason", reason.name())], count)
        });
        counter(encoder, "server_discarded", "Server connections not kept", samples)
    }
}

/// The labels of `ShardCounters::tls_handshakes`.
const TLS_PEERS: [&str; 2] = ["client", "server"];
const TLS_OUTCOMES: [&str; 3] = ["full", "resumed", "failed"];

impl Scrape {
    fn tls(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let pairs = TLS_PEERS.iter().enumerate().flat_map(|(peer, name)| {
            let outcomes = TLS_OUTCOMES.iter().enumerate();
            outcomes.map(move |(outcome, word)| {
                let counts = self.shards.iter().map(|counts| counts.tls_handshakes[peer][outcome]);
                ([("peer", *name), ("outcome", *word)], counts.sum())
            })
        });
        counter(encoder, "tls_handshakes", "TLS handshakes with clients and with servers", pairs)?;
        let Status { reloads, refusals, certificates } = &self.certificates;
        let outcomes =
            [([("outcome", "taken_over")], *reloads), ([("outcome", "refused")], *refusals)];
        let help = "Changes of certificate files; after a refused one the former stay in use";
        counter(encoder, "certificate_changes", help, outcomes)?;
        let ends = certificates.iter().map(|(names, not_after_s)| {
            ([("names", names.as_str())], u64::try_from(*not_after_s).unwrap_or(0))
        });
        let help = "When each certificate shown to clients ends, in seconds since 1970";
        gauge(encoder, "certificate_expiry_seconds", help, ends)
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let build = [([("version", env!("CARGO_PKG_VERSION"))], 1)];
        gauge(&mut encoder, "build_info", "This program; always 1", build)?;
        for (name, help, field) in COUNTERS {
            counter(&mut encoder, name, help, [([], self.sum(*field))])?;
        }
        let heap = [([], self.sum(|c| c.heap_bytes))];
        let help = "Bytes held now for clients that wait or are slow";
        gauge(&mut encoder, "heap_bytes", help, heap)?;
        let kept = [([], self.sum(|c| c.buffers_kept))];
        let help = "Receive buffers in which requests wait now";
        gauge(&mut encoder, "buffers_kept", help, kept)?;
        self.clients(&mut encoder)?;
        self.tls(&mut encoder)?;
        self.servers(&mut encoder)
    }
}

fn counter<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = Sample<'a, N>>,
) -> fmt::Result {
    family(encoder, name, help, samples, ConstCounter::new)
}

fn gauge<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = Sample<'a, N>>,
) -> fmt::Result {
    family(encoder, name, help, samples, ConstGauge::new)
}

fn family<'a, const N: usize, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = Sample<'a, N>>,
    metric: fn(u64) -> M,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, metric(0).metric_type())?;
    for (labels, value) in samples {
        let (labels, metric) = (labels.map(|(name, value)| (name, escaped(value))), metric(value));
        if N == 0 {
            // Braces around no label would be no OpenMetrics.
            return metric.encode(family);
        }
        metric.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// As OpenMetrics has it in label values; the encoder writes them as they are, and names in
/// certificates may be anything.
fn escaped(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', '"', '\n']) {
        return value.into();
    }
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_certificates_are_escaped() {
        let names = "Acme \"Prod\" \\ db\nnext".to_owned();
        let certificates = vec![(names, 7), ("plain".into(), 8)];
        let certificates = Status { certificates, ..Status::default() };
        let text = render(Scrape { certificates, ..Scrape::default() }).unwrap();
        let lines: Vec<&str> =
            text.lines().filter(|line| line.starts_with("boltmux_certificate_expiry")).collect();
        let name = "boltmux_certificate_expiry_seconds";
        let escaped = r#"{names="Acme \"Prod\" \\ db\nnext"} 7"#;
        let expected = [format!("{name}{escaped}"), format!("{name}{{names=\"plain\"}} 8")];
        assert_eq!(lines, expected, "{text}");
    }
}
