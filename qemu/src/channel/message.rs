//! What host and guest say to each other.
//!
//! Two streams, each a port of virtio-serial. On [`AGENT_PORT`] the host hands over files and a plan, and the agent answers with
//! progress, files and evidence. On [`INIT_PORT`] the guest's first process tells that the guest lives, and how the agent
//! ended: it does so also when the agent has died within a frame.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The port between memgate and the agent.
pub const AGENT_PORT: &str = "memgate.agent";
/// The port between memgate and the guest's first process.
pub const INIT_PORT: &str = "memgate.init";

/// The version of these messages.
pub const VERSION: u32 = 1;

/// From the host to the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToAgent {
    /// The first message, to an agent that has booted or was resumed.
    Begin {
        /// The host's wall clock, ns since 1970 in UTC: that of a guest that was resumed stands still.
        now_ns: u64,
        /// Random bytes, so that no two guests resumed from one snapshot draw the same.
        entropy: [u8; 32],
    },
    /// A file; [`Data`](super::Kind::Data) frames of so many bytes follow.
    File {
        /// Its absolute path in the guest. Directories are made; what is there is replaced.
        path: String,
        /// Permissions, `0o755` say.
        mode: u32,
        /// Bytes.
        length: u64,
    },
    /// Run this plan, and answer with [`FromAgent::Done`] or [`FromAgent::Failed`].
    Run(Box<RawValue>),
}

/// From the agent to the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromAgent {
    /// It has started and waits. Said once, before any snapshot.
    Ready {
        /// [`VERSION`] of the agent.
        version: u32,
        /// The version of memgate that it was built from.
        memgate: String,
    },
    /// The clock is set.
    Begun,
    /// It lives; said each second from [`ToAgent::Begin`] on.
    Heartbeat,
    /// A file has arrived whole.
    Stored,
    /// What the run has come to, in the agent's own terms.
    Progress(Box<RawValue>),
    /// A file of the run; [`Data`](super::Kind::Data) frames of so many bytes follow.
    File {
        /// Its name, by which the host knows what it is.
        name: String,
        /// Bytes.
        length: u64,
    },
    /// The run is over, and its evidence handed over as a file. The last message.
    Done,
    /// The run could not be made, in the agent's own terms. The last message.
    Failed(Box<RawValue>),
}

/// From the guest's first process to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromInit {
    /// The guest has booted.
    Up,
    /// The guest lives; said each second.
    Heartbeat,
    /// The guest cannot do its work: what failed.
    Broken(String),
    /// The agent has ended; the guest powers off.
    AgentEnded {
        /// How.
        end: AgentEnd,
        /// Processes that the guest's kernel killed for want of memory.
        oom_kills: u64,
    },
}

/// How the agent ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentEnd {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it: `SIGKILL`.
    Signalled(String),
}
