//! A node's configuration: a TOML file, flags over it, and defaults under it.
//!
//! Whoever writes a wrong key finds out at once, in one line that names the key, where it stands, and what would have
//! been right. Nothing is guessed: a key that is not known is an error, not a no-op.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use raft::core::NodeId;
use serde::Deserialize;

/// What is wrong with a configuration; one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("{0}")]
    Value(String),
}

/// The file, key by key.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    id: Option<u64>,
    data_dir: Option<PathBuf>,
    peer_listen: Option<String>,
    client_listen: Option<String>,
    #[serde(default)]
    join: bool,
    #[serde(default)]
    members: Vec<MemberEntry>,
    #[serde(default)]
    timeouts: Timeouts,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    store: StoreChoice,
    log_format: Option<LogFormat>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberEntry {
    id: u64,
    peer: String,
    client: String,
}

/// Times, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Timeouts {
    /// The shortest time without a leader before an election; the longest is twice that.
    pub(crate) election_ms: u64,
    /// How often a leader says that it is there.
    pub(crate) heartbeat_ms: u64,
    /// The longest that a node waits before it stands for election when its connection to the leader broke, or when
    /// a quorum is connected and nobody leads; it draws a time between that and none.
    pub(crate) failover_ms: u64,
    /// How long requests under way may take to finish when the node is told to stop.
    pub(crate) shutdown_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { election_ms: 600, heartbeat_ms: 60, failover_ms: 30, shutdown_ms: 5_000 }
    }
}

/// Bounds. All have defaults that fit a small server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// The most bytes of one request.
    pub(crate) request_bytes: u64,
    /// The most connections of clients.
    pub(crate) connections: usize,
    /// The most requests under way on one connection.
    pub(crate) requests_per_connection: usize,
    /// The most commands under way in the whole node.
    pub(crate) proposals: usize,
    /// The most bytes of commands under way in the whole node.
    pub(crate) proposal_bytes: u64,
    /// The most bytes of commands in the leader's log that are not committed.
    pub(crate) uncommitted_bytes: u64,
    /// The most bytes of commands that are committed and not applied.
    pub(crate) unapplied_bytes: u64,
    /// The most reads under way in the whole node.
    pub(crate) reads: usize,
    /// How many bytes of snapshots the node sends to others in a second; 0: as many as it can.
    pub(crate) snapshot_bytes_per_second: u64,
    /// Of its log a node reads again and verifies; 0: nothing.
    pub(crate) scrub_bytes_per_second: u64,
    /// Bytes of the store's cache.
    pub(crate) cache_bytes: u64,
    /// The size of a log segment.
    pub(crate) segment_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            request_bytes: 3 * MIB / 2,
            connections: 4096,
            requests_per_connection: 1024,
            proposals: 8192,
            proposal_bytes: 64 * MIB,
            uncommitted_bytes: 64 * MIB,
            unapplied_bytes: 64 * MIB,
            reads: 8192,
            snapshot_bytes_per_second: 128 * MIB,
            scrub_bytes_per_second: MIB,
            cache_bytes: 64 * MIB,
            segment_bytes: 64 * MIB,
        }
    }
}

/// What the data is kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StoreChoice {
    /// The only durable one.
    #[default]
    Sled,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For eyes.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Where a member is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) peer: String,
    pub(crate) client: String,
}

/// `ID=PEER,CLIENT`: a member on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberFlag {
    pub(crate) id: u64,
    pub(crate) addresses: Addresses,
}

impl FromStr for MemberFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "a member is given as ID=PEER_ADDRESS,CLIENT_ADDRESS";
        let (id, addresses) = text.split_once('=').ok_or(form)?;
        let (peer, client) = addresses.split_once(',').ok_or(form)?;
        let id = id.parse().map_err(|_| format!("{form}, and {id:?} is not a number"))?;
        for (what, address) in [("peer", peer), ("client", client)] {
            check_address(&format!("the {what} address"), address).map_err(|error| error.to_string())?;
        }
        Ok(Self { id, addresses: Addresses { peer: peer.to_owned(), client: client.to_owned() } })
    }
}

/// What flags say; each goes before the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) id: Option<u64>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) peer_listen: Option<String>,
    pub(crate) client_listen: Option<String>,
    pub(crate) members: Vec<MemberFlag>,
    pub(crate) join: bool,
    pub(crate) log_format: Option<LogFormat>,
}

/// A node's configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeConfig {
    pub(crate) id: NodeId,
    pub(crate) data_dir: PathBuf,
    pub(crate) peer_listen: String,
    pub(crate) client_listen: String,
    pub(crate) members: BTreeMap<NodeId, Addresses>,
    /// Whether to wait to be added to a cluster that exists, and never to form one.
    pub(crate) join: bool,
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    pub(crate) store: StoreChoice,
    pub(crate) log_format: LogFormat,
}

impl NodeConfig {
    /// Reads the file, if there is one, and puts the flags over it.
    pub(crate) fn load(path: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let file = match path {
            None => File::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
                parse(path, &text)?
            }
        };
        Self::resolve(file, overrides)
    }

    fn resolve(file: File, flags: Overrides) -> Result<Self, ConfigError> {
        let wrong = |message: String| Err(ConfigError::Value(message));
        let Some(id) = flags.id.or(file.id) else {
            return wrong("the node has no id: set `id` in the configuration file, or --id".into());
        };
        let from_flags = flags.members.into_iter().map(|m| (m.id, m.addresses));
        let from_file =
            file.members.into_iter().map(|m| (m.id, Addresses { peer: m.peer, client: m.client }));
        let listed: Vec<_> = from_flags.collect();
        let listed = if listed.is_empty() { from_file.collect() } else { listed };
        let members = members(listed)?;
        let Some(own) = members.get(&NodeId(id)) else {
            let ids: Vec<_> = members.keys().map(|m| m.0.to_string()).collect();
            return wrong(format!("node {id} is not among the members ({})", ids.join(", ")));
        };
        let config = Self {
            id: NodeId(id),
            data_dir: flags.data_dir.or(file.data_dir).unwrap_or_else(|| format!("/var/raftkv/{id}").into()),
            peer_listen: flags.peer_listen.or(file.peer_listen).unwrap_or_else(|| own.peer.clone()),
            client_listen: flags.client_listen.or(file.client_listen).unwrap_or_else(|| own.client.clone()),
            members,
            join: flags.join || file.join,
            timeouts: file.timeouts,
            limits: file.limits,
            store: file.store,
            log_format: flags.log_format.or(file.log_format).unwrap_or_default(),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |message: String| Err(ConfigError::Value(message));
        for (key, address) in [("peer_listen", &self.peer_listen), ("client_listen", &self.client_listen)] {
            check_address(key, address)?;
        }
        if self.peer_listen == self.client_listen {
            return wrong(format!("peer_listen and client_listen are both {}", self.peer_listen));
        }
        if self.join && self.members.len() < 2 {
            return wrong("to join a cluster, list at least one of its members beside this node".into());
        }
        let Timeouts { election_ms, heartbeat_ms, failover_ms, .. } = self.timeouts;
        if failover_ms > election_ms {
            return wrong(format!(
                "timeouts.failover_ms ({failover_ms}) must not be more than timeouts.election_ms ({election_ms})"
            ));
        }
        if heartbeat_ms < TICK_MS || election_ms < 3 * heartbeat_ms {
            return wrong(format!(
                "timeouts.election_ms ({election_ms}) must be at least three times timeouts.heartbeat_ms \
                 ({heartbeat_ms}), and that at least {TICK_MS}"
            ));
        }
        let Limits { request_bytes, segment_bytes, .. } = self.limits;
        if !(1024..=8 << 20).contains(&request_bytes) {
            return wrong(format!(
                "limits.request_bytes is {request_bytes}; it must be between 1024 and 8388608"
            ));
        }
        if segment_bytes < 2 * request_bytes || segment_bytes > 1 << 30 {
            return wrong(format!(
                "limits.segment_bytes is {segment_bytes}; it must be between twice limits.request_bytes and 1073741824"
            ));
        }
        let counts = [
            ("connections", self.limits.connections),
            ("requests_per_connection", self.limits.requests_per_connection),
            ("proposals", self.limits.proposals),
            ("reads", self.limits.reads),
        ];
        let bytes = [
            ("uncommitted_bytes", self.limits.uncommitted_bytes),
            ("unapplied_bytes", self.limits.unapplied_bytes),
        ];
        if let Some((key, bytes)) = bytes.iter().find(|(_, bytes)| *bytes < request_bytes) {
            return wrong(format!(
                "limits.{key} is {bytes}; it must be at least limits.request_bytes ({request_bytes})"
            ));
        }
        match counts.iter().find(|(_, n)| *n == 0) {
            Some((key, _)) => wrong(format!("limits.{key} must be at least 1")),
            None => Ok(()),
        }
    }

    /// The election timeout, in ticks.
    pub(crate) fn election_ticks(&self) -> u32 {
        u32::try_from(self.timeouts.election_ms.div_ceil(TICK_MS)).unwrap_or(u32::MAX)
    }

    /// The longest wait before a hurried election, in ticks.
    pub(crate) fn failover_ticks(&self) -> u32 {
        u32::try_from(self.timeouts.failover_ms / TICK_MS).unwrap_or(u32::MAX)
    }

    /// The heartbeat interval, in ticks.
    pub(crate) fn heartbeat_ticks(&self) -> u32 {
        u32::try_from(self.timeouts.heartbeat_ms / TICK_MS).unwrap_or(u32::MAX)
    }
}

/// How long a tick of a node is, in milliseconds.
const TICK_MS: u64 = 10;

/// How long a tick of a node is.
pub(crate) const TICK: Duration = Duration::from_millis(TICK_MS);

fn members(listed: Vec<(u64, Addresses)>) -> Result<BTreeMap<NodeId, Addresses>, ConfigError> {
    let wrong = |message: String| Err(ConfigError::Value(message));
    if listed.is_empty() {
        return wrong(
            "there are no members: list them as [[members]] in the configuration file, or with --member"
                .into(),
        );
    }
    let mut members = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (id, addresses) in listed {
        if id == 0 {
            return wrong("a member has id 0; ids begin at 1".into());
        }
        for (key, address) in [("peer", &addresses.peer), ("client", &addresses.client)] {
            check_address(&format!("the {key} address of member {id}"), address)?;
            if !taken.insert(address.clone()) {
                return wrong(format!("the address {address} is listed twice among the members"));
            }
        }
        if members.insert(NodeId(id), addresses).is_some() {
            return wrong(format!("member {id} is listed twice"));
        }
    }
    Ok(members)
}

fn check_address(what: &str, address: &str) -> Result<(), ConfigError> {
    let sound =
        address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if sound {
        Ok(())
    } else {
        Err(ConfigError::Value(format!("{what} is {address:?}; it must be HOST:PORT")))
    }
}

fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        // serde speaks of fields and of what it expected.
        let message = error
            .message()
            .replace("unknown field", "unknown key")
            .replace(", expected one of", "; known keys:")
            .replace(", expected", "; known:")
            .replace("missing field", "missing key")
            .replace('\n', " ");
        ConfigError::Syntax { path: path.to_owned(), line: before.matches('\n').count() + 1, message }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
id = 2
[[members]]
id = 1
peer = "10.0.0.1:23801"
client = "10.0.0.1:23800"
[[members]]
id = 2
peer = "10.0.0.2:23801"
client = "10.0.0.2:23800"
"#;

    fn load(text: &str, flags: Overrides) -> Result<NodeConfig, String> {
        let file = parse(Path::new("node.toml"), text).map_err(|e| e.to_string())?;
        NodeConfig::resolve(file, flags).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let config = load(GOOD, Overrides::default()).unwrap();
        assert_eq!(config.data_dir, Path::new("/var/raftkv/2"));
        assert_eq!(config.peer_listen, "10.0.0.2:23801");
        assert_eq!(config.client_listen, "10.0.0.2:23800");
        assert_eq!((config.election_ticks(), config.heartbeat_ticks(), config.failover_ticks()), (60, 6, 3));
        assert!(!config.join);
        assert_eq!(config.limits.request_bytes, 1_572_864);
    }

    #[test]
    fn flags_go_before_the_file() {
        let flags = Overrides {
            id: Some(3),
            data_dir: Some("/d".into()),
            client_listen: Some("0.0.0.0:1".into()),
            members: vec!["3=h:2,h:3".parse().unwrap()],
            ..Overrides::default()
        };
        let config = load(GOOD, flags).unwrap();
        assert_eq!((config.id, config.data_dir.as_path()), (NodeId(3), Path::new("/d")));
        assert_eq!((config.client_listen.as_str(), config.peer_listen.as_str()), ("0.0.0.0:1", "h:2"));
        assert_eq!(config.members.keys().copied().collect::<Vec<_>>(), [NodeId(3)]);
    }

    #[test]
    fn joining_is_asked_for_in_the_file_or_by_a_flag() {
        assert!(load(GOOD, Overrides { join: true, ..Overrides::default() }).unwrap().join);
        assert!(load(&format!("join = true\n{GOOD}"), Overrides::default()).unwrap().join);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_known_ones() {
        let text = format!("{GOOD}\n[timeouts]\nelektion_ms = 7\n");
        assert_eq!(
            load(&text, Overrides::default()).unwrap_err(),
            "node.toml:13: unknown key `elektion_ms`; known keys: `election_ms`, `heartbeat_ms`, \
             `failover_ms`, `shutdown_ms`"
        );
        let error = load(&format!("idd = 1\n{GOOD}"), Overrides::default()).unwrap_err();
        assert!(error.starts_with("node.toml:1: unknown key `idd`; known keys: `id`, `data_dir`"), "{error}");
    }

    #[test]
    fn each_mistake_has_its_one_line() {
        let cases = [
            ("id = 1", "there are no members"),
            ("id = \"one\"", "node.toml:1: invalid type"),
            ("id = ", "node.toml:1:"),
            (&GOOD.replace("id = 2\n[[", "[["), "the node has no id"),
            (&GOOD.replace("id = 2\n[[", "id = 9\n[["), "node 9 is not among the members (1, 2)"),
            (&GOOD.replace("id = 1", "id = 2"), "member 2 is listed twice"),
            (&GOOD.replace("id = 1", "id = 0"), "ids begin at 1"),
            (&GOOD.replace("10.0.0.1:23801", "10.0.0.2:23801"), "is listed twice among the members"),
            (&GOOD.replace("10.0.0.1:23801", "10.0.0.1"), "it must be HOST:PORT"),
            (&GOOD.replace("client = \"10.0.0.1:23800\"", ""), "missing key `client`"),
            (&format!("store = \"rocks\"\n{GOOD}"), "unknown variant `rocks`"),
            (&format!("peer_listen = \"a:1\"\nclient_listen = \"a:1\"\n{GOOD}"), "are both a:1"),
            (&format!("{GOOD}[timeouts]\nelection_ms = 100\n"), "at least three times"),
            (&format!("{GOOD}[limits]\nrequest_bytes = 1\n"), "limits.request_bytes is 1"),
            (&format!("{GOOD}[limits]\nsegment_bytes = 4096\n"), "limits.segment_bytes is 4096"),
            (&format!("{GOOD}[limits]\nreads = 0\n"), "limits.reads must be at least 1"),
            (&format!("{GOOD}[limits]\nuncommitted_bytes = 9\n"), "limits.uncommitted_bytes is 9"),
            (&format!("{GOOD}[limits]\nunapplied_bytes = 9\n"), "limits.unapplied_bytes is 9"),
            (
                &format!("{GOOD}[timeouts]\nfailover_ms = 601\n"),
                "timeouts.failover_ms (601) must not be more",
            ),
            (
                "id = 4\njoin = true\n[[members]]\nid = 4\npeer = \"a:1\"\nclient = \"a:2\"\n",
                "list at least one of its members",
            ),
        ];
        for (text, expected) in cases {
            let error = load(text, Overrides::default()).unwrap_err();
            assert!(error.contains(expected), "{text}\nsays: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        for flag in ["1", "1=a:1", "x=a:1,b:1"] {
            assert!(flag.parse::<MemberFlag>().unwrap_err().contains("ID=PEER_ADDRESS,CLIENT_ADDRESS"));
        }
    }
}
