//! One question to the server for `boltmux check --connect`: whether the proxy would get on with
//! it. Asked as the monitor asks, with the PROXY header, TLS, the handshake and HELLO.

use crate::config::Settings;
use crate::control::Options;
use crate::control::probe::{self, Learned, Target};
use crate::control::refresh::{ADDRESSES_MAX, LEARN_LIMIT_FACTOR};
use crate::transport::address::Address;
use crate::transport::runtime;
use crate::transport::tls::client::Uplink;
use crate::wire::error::shown;
use crate::wire::message::Auth;
use std::net::SocketAddr;

/// Why there is no good answer, in one line.
#[derive(Debug)]
pub enum Trouble {
    /// The system refuses the ring or its memory.
    Refused(String),
    /// It is not there, is no Bolt server, or refuses the monitor's login.
    Failed(String),
}

/// Which address answered and what it is, in one line. Blocks, for a few connect timeouts at most.
pub fn ask(settings: &Settings, tls: Option<Uplink>) -> Result<String, Trouble> {
    let options = Options::from(settings);
    let refused = |error: std::io::Error| Trouble::Refused(error.to_string());
    let question = move || async move { ask_all(&options, tls.as_ref()).await };
    let asked = runtime::start_executor("check", None, question).map_err(refused)?;
    asked.join().map_err(refused)?.map_err(Trouble::Failed)
}

/// The first of the name's addresses that answers.
async fn ask_all(options: &Options, tls: Option<&Uplink>) -> Result<String, String> {
    let name = Address { host: options.host.clone(), port: options.port };
    let found = runtime::within(options.connect_timeout, name.resolve()).await;
    let found = match found {
        Some(found) => found.map_err(|error| format!("cannot resolve {}: {error}", name.host)),
        None => Err(format!("no answer of the resolver for {}", name.host)),
    };
    let wrong = |trouble: String| format!("{trouble}; is uplink.uri right?");
    let mut troubles = Vec::new();
    for address in found.map_err(wrong)?.into_iter().take(ADDRESSES_MAX) {
        match ask_one(options, tls, address).await {
            Ok(learned) => return describe(address, &learned),
            Err(trouble) => troubles.push(trouble),
        }
    }
    Err(wrong(troubles.join("; ")))
}

async fn ask_one(
    options: &Options,
    tls: Option<&Uplink>,
    address: SocketAddr,
) -> Result<Learned, String> {
    let password = options.password.as_ref();
    let login =
        password.map(|password| Auth::from_parts("basic", &options.user, password.expose()));
    let target = Target {
        address,
        step_limit: options.connect_timeout,
        tls,
        opening: options.proxy_protocol,
        login: login.as_ref(),
    };
    let limit = options.connect_timeout * LEARN_LIMIT_FACTOR;
    let learned = runtime::within(limit, probe::learn(&target, None)).await;
    learned.unwrap_or_else(|| Err(format!("{address}: it took too long to learn what it speaks")))
}

fn describe(address: SocketAddr, learned: &Learned) -> Result<String, String> {
    if let Some(code) = &learned.login_refused {
        let code = shown(code);
        return Err(format!(
            "{address} refuses the monitor's login with {code}: correct uplink.user and \
             uplink.password"
        ));
    }
    let encryption = learned.encryption.as_ref().map(|it| format!(" over {it}"));
    let encryption = encryption.unwrap_or_default();
    let versions: Vec<String> = learned.known.versions.iter().map(ToString::to_string).collect();
    let (agent, versions) = (shown(&learned.known.agent), versions.join(", "));
    Ok(format!("connected to {address}{encryption}: {agent}, Bolt {versions}"))
}
