//! Certificates, keys and authorities: read at start, and read anew when their files change.
//!
//! Owns what was read last and was good; a bad file never replaces it. Makes the values that shards
//! work with (`Encryption`) and tells about changes; does not carry them to the shards. It reads
//! files, so it runs before the shards do, and on the blocking pool after that.
//!
//! Secret stores put a new file in place by turning a symbolic link, often in two steps: the files
//! of a listener are read together, and again with each further change until they fit together.

use crate::config::problem::{Place, Problems};
use crate::config::{self, ListenTls, Settings, TlsMode, TlsVersion};
use crate::transport::tls::certificate::{self, Certificate, Fault};
use crate::transport::tls::client::{Trust, Uplink, system_authorities};
use crate::transport::tls::server::{self, Clients, Parts};
use crate::transport::tls::tickets::{ROTATION, Tickets};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::{RootCertStore, ServerConfig};
use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A chain of certificates is a few KiB, all authorities of a system a few hundred.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What shards encrypt with.
#[derive(Clone, Debug, Default)]
pub struct Encryption {
    /// By listener, in the settings' order. `None`: it speaks no TLS.
    pub listeners: Vec<Option<Arc<ServerConfig>>>,
    /// `None`: servers are spoken to in plain.
    pub uplink: Option<Uplink>,
}

/// For operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Changes that were taken over, and those that were refused.
    pub reloads: u64,
    pub refusals: u64,
    /// Names of each certificate in use, and when it ends, in seconds since 1970.
    pub certificates: Vec<(String, i64)>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Certificates {
    listeners: Vec<Listener>,
    uplink: config::Uplink,
    encryption: Encryption,
    stamps: HashMap<PathBuf, Stamp>,
    system: Option<Arc<RootCertStore>>,
    provider: Arc<CryptoProvider>,
    rotated_at_s: u64,
    status: Status,
}

#[derive(Clone, Debug)]
struct Listener {
    settings: ListenTls,
    parts: Option<Parts>,
}

/// What tells a file from the one that was there before: its device, number, size and time of
/// change. `None`: there is none.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Certificates {
    /// Reads every file that the settings name. The error lists all that is wrong.
    pub fn read(settings: &Settings) -> Result<Certificates, Problems> {
        let mut all = Certificates {
            listeners: Vec::new(),
            uplink: settings.uplink.clone(),
            encryption: Encryption::default(),
            stamps: HashMap::new(),
            system: None,
            provider: server::provider(),
            rotated_at_s: now_s(),
            status: Status::default(),
        };
        let mut problems = Problems::default();
        all.note_stamps(settings.listen.iter().map(|listen| &listen.tls));
        for listen in &settings.listen {
            let mut listener = Listener { settings: listen.tls.clone(), parts: None };
            let mut config = None;
            if listen.tls.effective_mode() != TlsMode::Off {
                match Tickets::new() {
                    Ok(tickets) => {
                        config = all.read_listener(&mut listener, &tickets, &mut problems);
                    }
                    Err(text) => problems.add(Place::Together, text),
                }
            }
            all.listeners.push(listener);
            all.encryption.listeners.push(config);
        }
        all.encryption.uplink = all.read_uplink(&mut problems);
        all.tell_status();
        if problems.is_empty() { Ok(all) } else { Err(problems) }
    }

    /// What is wrong with the files of settings that may be wrong themselves.
    pub fn problems_of(settings: &Settings) -> Problems {
        let mut settings = settings.clone();
        for listen in &mut settings.listen {
            // Which key belongs to which certificate is not known then.
            if !listen.tls.keys.is_empty() && listen.tls.keys.len() != listen.tls.certificates.len()
            {
                listen.tls = ListenTls::default();
            }
        }
        Certificates::read(&settings).err().unwrap_or_default()
    }

    /// What is in use now.
    pub fn encryption(&self) -> Encryption {
        self.encryption.clone()
    }

    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Whether there is anything to look after.
    pub fn is_empty(&self) -> bool {
        self.encryption.uplink.is_none() && self.encryption.listeners.iter().all(Option::is_none)
    }

    /// Reads anew what has changed on disk, or everything if `is_forced`; rotates the ticket keys
    /// when it is time. True if `encryption` is another now. What is bad is told in the log and
    /// leaves everything as it was.
    pub fn refresh(&mut self, is_forced: bool) -> bool {
        let mut has_changed = self.rotate();
        if is_forced {
            self.system = None;
        }
        let changed = self.changed_files();
        let is_due =
            |files: Vec<PathBuf>| is_forced || files.iter().any(|file| changed.contains(file));
        for index in 0..self.listeners.len() {
            let files = files_of(&self.listeners[index].settings);
            if self.encryption.listeners[index].is_some() && is_due(files) {
                has_changed |= self.refresh_listener(index);
            }
        }
        if self.encryption.uplink.is_some() && is_due(files_of_uplink(&self.uplink)) {
            has_changed |= self.refresh_uplink();
        }
        self.tell_status();
        has_changed
    }

    fn refresh_listener(&mut self, index: usize) -> bool {
        let mut listener = self.listeners[index].clone();
        let Some(before) = listener.parts.clone() else { return false };
        let mut problems = Problems::default();
        let config = self.read_listener(&mut listener, &before.tickets, &mut problems);
        if !self.note(&problems) {
            return false;
        }
        let names = listener.parts.iter().flat_map(|parts| &parts.certificates);
        let names: Vec<String> = names.map(|one| one.names.list()).collect();
        tracing::info!("took over new certificates, for {}", names.join("; "));
        self.listeners[index] = listener;
        self.encryption.listeners[index] = config;
        true
    }

    fn refresh_uplink(&mut self) -> bool {
        let mut problems = Problems::default();
        let uplink = self.read_uplink(&mut problems);
        if !self.note(&problems) {
            return false;
        }
        tracing::info!("took over the certificates for servers");
        self.encryption.uplink = uplink;
        true
    }

    /// Counts and tells; true if there was no problem.
    fn note(&mut self, problems: &Problems) -> bool {
        if problems.is_empty() {
            self.status.reloads += 1;
            return true;
        }
        self.status.refusals += 1;
        for problem in problems.iter() {
            tracing::error!("{problem}; the certificate that was in use stays");
        }
        false
    }

    fn rotate(&mut self) -> bool {
        let now_s = now_s();
        if now_s.saturating_sub(self.rotated_at_s) < ROTATION.as_secs() {
            return false;
        }
        self.rotated_at_s = now_s;
        let mut has_changed = false;
        for (listener, config) in self.listeners.iter_mut().zip(&mut self.encryption.listeners) {
            let (Some(parts), Some(config)) = (&mut listener.parts, config) else { continue };
            let Ok(tickets) = parts.tickets.rotated() else { continue };
            parts.tickets = tickets;
            if let Ok(fresh) = server::configure(parts, &self.provider) {
                *config = Arc::new(fresh);
                has_changed = true;
            }
        }
        has_changed
    }

    fn read_listener(
        &self,
        listener: &mut Listener,
        tickets: &Tickets,
        problems: &mut Problems,
    ) -> Option<Arc<ServerConfig>> {
        let settings = &listener.settings;
        let before = problems.iter().count();
        let mut certificates = Vec::new();
        for (index, chain) in settings.certificates.iter().enumerate() {
            let key = settings.keys.get(index);
            certificates.extend(self.read_pair(chain, key, "listen", problems));
        }
        let authorities = settings.client_ca.as_ref().and_then(|path| {
            let read = read_file(path).and_then(|text| certificate::authorities(&text));
            read.map_err(|text| add(problems, path, &text, "listen.client_ca")).ok()
        });
        if problems.iter().count() > before {
            return None;
        }
        let names: Arc<[String]> = settings.client_names.clone().into();
        let clients =
            authorities.map(|authorities| Clients { authorities: authorities.into(), names });
        let versions = match settings.minimum {
            TlsVersion::V1_2 => server::VERSIONS_ALL,
            TlsVersion::V1_3 => server::VERSIONS_1_3,
        };
        // Whoever another authority let in is asked anew.
        let is_same =
            |parts: &Parts| roots_of(parts.clients.as_ref()) == roots_of(clients.as_ref());
        let tickets = match &listener.parts {
            Some(parts) if !is_same(parts) => Tickets::new().unwrap_or_else(|_| tickets.clone()),
            _ => tickets.clone(),
        };
        let parts = Parts { certificates, clients, versions, tickets };
        let config = server::configure(&parts, &self.provider);
        listener.parts = Some(parts);
        let failed = |text: String| problems.add(Place::Together, text);
        config.map_err(failed).map(Arc::new).ok()
    }

    fn read_uplink(&mut self, problems: &mut Problems) -> Option<Uplink> {
        let uplink = self.uplink.clone();
        let trust = match uplink.encryption {
            config::Encryption::Off => return None,
            config::Encryption::Unverified => Trust::Anybody,
            config::Encryption::Verified => self.trust(problems)?,
        };
        let own = match &uplink.client_cert {
            None => None,
            Some(chain) => Some(self.read_pair(
                chain,
                uplink.client_key.as_ref(),
                "uplink.client",
                problems,
            )?),
        };
        let made = Uplink::new(&uplink.host, &trust, own.as_ref(), &self.provider);
        made.map_err(|text| problems.add(Place::Together, text)).ok()
    }

    /// The authorities in `uplink.ca_file`, or the system's, which are read anew only if `refresh`
    /// is forced: they are in too many files to look at every second.
    fn trust(&mut self, problems: &mut Problems) -> Option<Trust> {
        if let Some(path) = &self.uplink.ca_file {
            let read = read_file(path).and_then(|text| certificate::believed(&text));
            let read = read.map_err(|text| add(problems, path, &text, "uplink.ca_file"));
            let (roots, exact) = read.ok()?;
            return Some(Trust::Authorities { roots: Arc::new(roots), exact: exact.into() });
        }
        if self.system.is_none() {
            match system_authorities() {
                Ok(roots) => self.system = Some(Arc::new(roots)),
                Err(text) => {
                    let text = format!("{text}, or name some in uplink.ca_file");
                    problems.add(Place::Together, text);
                }
            }
        }
        let roots = self.system.clone()?;
        Some(Trust::Authorities { roots, exact: Arc::from([]) })
    }

    fn read_pair(
        &self,
        chain: &Path,
        key: Option<&PathBuf>,
        section: &str,
        problems: &mut Problems,
    ) -> Option<Certificate> {
        let separator = if section == "listen" { '.' } else { '_' };
        let chain_key = format!("{section}{separator}cert");
        let key_key = format!("{section}{separator}key");
        let key_path = key.map_or(chain, PathBuf::as_path);
        let texts = (read_file(chain), read_file(key_path));
        let (chain_text, key_text) = match texts {
            (Ok(chain_text), Ok(key_text)) => (chain_text, key_text),
            (chain_text, key_text) => {
                if let Err(text) = chain_text {
                    add(problems, chain, &text, &chain_key);
                }
                if let (Err(text), Some(key)) = (key_text, key) {
                    add(problems, key, &text, &key_key);
                }
                return None;
            }
        };
        let now_s = i64::try_from(now_s()).unwrap_or(i64::MAX);
        match Certificate::read(&chain_text, &key_text, now_s, &self.provider) {
            Ok(certificate) => Some(certificate),
            Err(Fault::Chain(text)) => {
                add(problems, chain, &text, &chain_key);
                None
            }
            Err(Fault::Key(text)) => {
                add(problems, key_path, &text, &key_key);
                None
            }
        }
    }

    fn tell_status(&mut self) {
        let parts = self.listeners.iter().filter_map(|listener| listener.parts.as_ref());
        let used = parts.flat_map(|parts| &parts.certificates);
        let mut told: Vec<_> = used.map(|one| (one.names.list(), one.not_after_s)).collect();
        told.sort();
        told.dedup_by(|one, other| one.0 == other.0); // the first to end
        self.status.certificates = told;
    }

    fn note_stamps<'a>(&mut self, listeners: impl Iterator<Item = &'a ListenTls>) {
        let mut paths: Vec<PathBuf> = listeners.flat_map(files_of).collect();
        paths.extend(files_of_uplink(&self.uplink));
        self.stamps = paths.into_iter().map(|path| (path.clone(), stamp(&path))).collect();
    }

    /// The files that are others than at the last look. Several listeners may have one in common,
    /// so it is looked at once for all of them.
    fn changed_files(&mut self) -> HashSet<PathBuf> {
        let mut changed = HashSet::new();
        for (path, before) in &mut self.stamps {
            let now = stamp(path);
            if std::mem::replace(before, now) != now {
                changed.insert(path.clone());
            }
        }
        changed
    }
}

/// Who certifies clients, as bytes that can be compared.
fn roots_of(clients: Option<&Clients>) -> Vec<&[u8]> {
    let roots = clients.iter().flat_map(|clients| &clients.authorities.roots);
    roots.map(|root| root.subject_public_key_info.as_ref()).collect()
}

fn files_of(settings: &ListenTls) -> Vec<PathBuf> {
    let pairs = settings.certificates.iter().chain(&settings.keys);
    pairs.chain(&settings.client_ca).cloned().collect()
}

fn files_of_uplink(uplink: &config::Uplink) -> Vec<PathBuf> {
    let paths = uplink.ca_file.iter().chain(&uplink.client_cert);
    paths.chain(&uplink.client_key).cloned().collect()
}

/// Of what a path leads to, through all symbolic links.
fn stamp(path: &Path) -> Stamp {
    let of =
        |data: Metadata| (data.dev(), data.ino(), data.size(), data.mtime(), data.mtime_nsec());
    std::fs::metadata(path).map(of).ok()
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read =
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => {
            Err(format!("larger than {FILE_BYTES_MAX} bytes, expected certificates or a key"))
        }
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err("cannot be read: permission denied; let boltmux's user read it".into())
        }
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

fn add(problems: &mut Problems, path: &Path, text: &str, key: &str) {
    let place = Place::Line { file: path.display().to_string(), line: None };
    problems.add(place, format!("{text} ({key})"));
}

fn now_s() -> u64 {
    UnixTime::now().as_secs()
}
