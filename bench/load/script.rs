//! What all clients of a target say alike: proposals, login, requests. Pure.

use super::plan::{Plan, Shape, Target};
use super::request::Requests;
use crate::transport::tls::client::Uplink;
use crate::wire::handshake;
use crate::wire::message::{self, Auth, Notifications, ServerHello};
use crate::wire::version::Version;
use bytes::BytesMut;
use std::cell::RefCell;
use std::rc::Rc;

/// What is taken where no version is asked for: as the proxy's default offer, so that the same one
/// is measured with and without it.
const HIGHEST: Version = Version::new(5, 8);
const LOWEST: Version = Version::new(4, 4);
const AGENT: &str = concat!("boltload/", env!("CARGO_PKG_VERSION"));

/// Shared by the clients of one target on one thread.
pub struct Script {
    plan: Rc<Plan>,
    target: Target,
    /// Of the version last negotiated; servers do not change theirs, except when they are upgraded.
    requests: RefCell<Option<(Version, Rc<Requests>)>>,
}

impl Script {
    pub fn new(plan: Rc<Plan>, target: usize) -> Script {
        let mut target = plan.targets[target].clone();
        if plan.resumes_tls {
            target.tls = target.tls.as_ref().map(Uplink::apart);
        } else {
            target.tls = target.tls.as_ref().map(Uplink::without_resumption);
        }
        Script { plan, target, requests: RefCell::new(None) }
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    pub fn proposals(&self) -> [u8; 20] {
        match self.target.version {
            Some(version) => handshake::propose_exact(version),
            None => handshake::propose_manifest(),
        }
    }

    pub fn accepts(&self, version: Version) -> bool {
        match self.target.version {
            Some(wanted) => wanted == version,
            None => (LOWEST..=HIGHEST).contains(&version),
        }
    }

    /// False where the request ends with the agreement on a version.
    pub fn logs_in(&self) -> bool {
        self.plan.shape != Shape::Handshake
    }

    /// The best of what a manifest lists.
    pub fn choose(&self, versions: &[Version]) -> Option<Version> {
        versions.iter().copied().filter(|version| self.accepts(*version)).max()
    }

    pub fn requests(&self, version: Version) -> Rc<Requests> {
        let mut kept = self.requests.borrow_mut();
        match &*kept {
            Some((of, requests)) if *of == version => requests.clone(),
            _ => {
                let requests = Rc::new(Requests::new(&self.plan, version));
                *kept = Some((version, requests.clone()));
                requests
            }
        }
    }

    /// HELLO, and from 5.1 on LOGON in the same write, as drivers do; returns the summaries due.
    pub fn write_login(&self, version: Version, out: &mut BytesMut) -> u8 {
        let Target { user, password, .. } = &self.target;
        let scheme = if user.is_empty() && password.is_empty() { "none" } else { "basic" };
        let auth = Auth::from_parts(scheme, user, password);
        let hello = ServerHello {
            user_agent: AGENT,
            bolt_agent: AGENT,
            routing: None,
            utc_patch: false,
            notifications: &Notifications::default(),
            auth: Some(&auth),
        };
        out.extend_from_slice(&message::encode_hello(version, &hello));
        if !version.has_logon() {
            return 1;
        }
        out.extend_from_slice(&message::encode_logon(&auth));
        2
    }
}
