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
pub const VERSION: u32 = 2;

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
    /// Run this program with these arguments, or a shell where there is none, and answer with [`FromAgent::CommandEnded`] or
    /// [`FromAgent::Failed`]. The guest's first file system must have the shell.
    Command {
        /// Program and arguments.
        words: Vec<String>,
        /// The terminal that has been joined to the guest's console, where the command is to use that. Otherwise it has no input, and
        /// what it prints comes as [`FromAgent::Printed`].
        terminal: Option<Terminal>,
    },
}

/// A person's terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Its kind, as `TERM` names it.
    pub kind: String,
    /// Lines; 0 where that is not known.
    pub rows: u16,
    /// Characters a line; 0 where that is not known.
    pub columns: u16,
}

/// Where a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Printer {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
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
    /// The command has printed something; [`Data`](super::Kind::Data) frames of so many bytes follow.
    Printed {
        /// Where.
        printer: Printer,
        /// Bytes.
        length: u64,
    },
    /// The command has ended with this exit code, or 128 and the number of the signal that ended it. The last message.
    CommandEnded(u8),
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
