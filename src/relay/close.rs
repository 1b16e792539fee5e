//! Why a client's connection, or a server's, came to its end: closed lists that metrics count by.

/// Why a client connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// It said GOODBYE.
    Goodbye,
    /// End-of-file or a reset from the client.
    ClientGone,
    /// The first bytes, the handshake or the login took too long.
    LoginTimeout,
    /// No progress inside a message.
    MessageTimeout,
    /// READY and silent for longer than `timeouts.client_idle`.
    IdleTimeout,
    /// The first bytes were no protocol we speak.
    UnknownProtocol,
    /// No common version.
    NoVersion,
    /// A request that the format or the state forbids.
    InvalidRequest,
    /// Credentials were refused.
    Unauthorized,
    /// Login needed the server, and it could not be had.
    LoginUnavailable,
    /// The server was lost in the middle of a message that was partly relayed.
    HalfMessage,
    /// The client does not read and the copies had no room.
    HeapBudget,
    /// `limits.clients`.
    TooManyClients,
    /// Session mode: the server ended.
    ServerGone,
    /// An HTTP request was answered.
    Http,
    /// The proxy shuts down.
    Drain,
    /// TLS on a listener that has none.
    TlsNotOffered,
    /// No TLS on a listener that requires it.
    TlsRequired,
    /// TLS within TLS, or an upgrade within WebSocket.
    NestedLayer,
    /// Bytes before the answer that changes what bytes mean.
    EarlyBytes,
    /// A frame that WebSocket forbids, or no binary one.
    WebSocketViolation,
    /// No PROXY header where there must be one, or a broken one.
    ProxyHeader,
    /// A PROXY header is expected from others only.
    ProxyUntrusted,
    /// The TLS handshake failed, or a record was damaged.
    TlsFailed,
}

impl CloseReason {
    pub const ALL: [CloseReason; 24] = [
        CloseReason::Goodbye,
        CloseReason::ClientGone,
        CloseReason::LoginTimeout,
        CloseReason::MessageTimeout,
        CloseReason::IdleTimeout,
        CloseReason::UnknownProtocol,
        CloseReason::NoVersion,
        CloseReason::InvalidRequest,
        CloseReason::Unauthorized,
        CloseReason::LoginUnavailable,
        CloseReason::HalfMessage,
        CloseReason::HeapBudget,
        CloseReason::TooManyClients,
        CloseReason::ServerGone,
        CloseReason::Http,
        CloseReason::Drain,
        CloseReason::TlsNotOffered,
        CloseReason::TlsRequired,
        CloseReason::NestedLayer,
        CloseReason::EarlyBytes,
        CloseReason::WebSocketViolation,
        CloseReason::ProxyHeader,
        CloseReason::ProxyUntrusted,
        CloseReason::TlsFailed,
    ];

    /// The label in `boltmux_closed_total{reason}`.
    pub fn name(self) -> &'static str {
        match self {
            CloseReason::Goodbye => "goodbye",
            CloseReason::ClientGone => "client_gone",
            CloseReason::LoginTimeout => "login_timeout",
            CloseReason::MessageTimeout => "message_timeout",
            CloseReason::IdleTimeout => "idle_timeout",
            CloseReason::UnknownProtocol => "unknown_protocol",
            CloseReason::NoVersion => "no_version",
            CloseReason::InvalidRequest => "invalid_request",
            CloseReason::Unauthorized => "unauthorized",
            CloseReason::LoginUnavailable => "login_unavailable",
            CloseReason::HalfMessage => "half_message",
            CloseReason::HeapBudget => "heap_budget",
            CloseReason::TooManyClients => "too_many_clients",
            CloseReason::ServerGone => "server_gone",
            CloseReason::Http => "http",
            CloseReason::Drain => "drain",
            CloseReason::TlsNotOffered => "tls_not_offered",
            CloseReason::TlsRequired => "tls_required",
            CloseReason::NestedLayer => "nested_layer",
            CloseReason::EarlyBytes => "early_bytes",
            CloseReason::WebSocketViolation => "websocket_violation",
            CloseReason::ProxyHeader => "proxy_header",
            CloseReason::ProxyUntrusted => "proxy_untrusted",
            CloseReason::TlsFailed => "tls_failed",
        }
    }
}
