//! The messages between host and guest.
//!
//! There are three streams, each on a port of virtio-serial. On [`AGENT_PORT`] the host sends files and a plan, and the
//! agent answers with progress, files and evidence. On [`INIT_PORT`] the guest's first process reports that the guest
//! is alive, and how the agent ended, even if the agent died within a frame. On [`LOAD_PORT`] the host's load generator
//! reaches the service, in frames of its own ([`Piece`](super::Piece)).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The port between memgate and the agent.
pub const AGENT_PORT: &str = "memgate.agent";
/// The port between memgate and the guest's first process.
pub const INIT_PORT: &str = "memgate.init";
/// The port between the host's load generator and the agent.
pub const LOAD_PORT: &str = "memgate.load";

/// From the host to the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToAgent {
    /// The first message, to an agent that has booted or was resumed.
    Begin {
        /// The host's wall clock, ns since 1970 in UTC. The clock of a resumed guest is late.
        now_ns: u64,
        /// Random bytes, so that two guests resumed from one snapshot do not draw the same random numbers.
        entropy: [u8; 32],
    },
    /// A file. [`Data`](super::Kind::Data) frames with this many bytes follow.
    File {
        /// Its absolute path in the guest. Missing directories are made, and an existing file is replaced.
        path: String,
        /// Permissions, such as `0o755`.
        mode: u32,
        /// Bytes.
        length: u64,
    },
    /// Runs this plan. The answer is [`FromAgent::Done`] or [`FromAgent::Failed`].
    Run(Box<RawValue>),
    /// Runs this program with these arguments, or a shell if there is none. The answer is [`FromAgent::CommandEnded`]
    /// or [`FromAgent::Failed`]. The guest's first file system must contain the shell.
    Command {
        /// Program and arguments.
        words: Vec<String>,
        /// The terminal that is joined to the guest's console, if the command must use it. Otherwise the command has no
        /// input, and its output is sent as [`FromAgent::Printed`].
        terminal: Option<Terminal>,
    },
}

/// A user's terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Its type, as in `TERM`.
    pub kind: String,
    /// Lines; 0 if not known.
    pub rows: u16,
    /// Characters a line; 0 if not known.
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
    /// It has started and waits. Sent once, before any snapshot.
    Ready {
        /// The identity of the build of memgate that it is of. Both sides are of one build, so that each understands
        /// whatever the other says. An agent that was built before there were identities has none: it is empty.
        #[serde(default)]
        build: String,
    },
    /// The clock is set.
    Begun,
    /// It is alive. Sent every second after [`ToAgent::Begin`].
    Heartbeat,
    /// A file has arrived completely.
    Stored,
    /// The progress of the run, in the agent's own terms.
    Progress(Box<RawValue>),
    /// A file of the run. [`Data`](super::Kind::Data) frames with this many bytes follow.
    File {
        /// The name by which the host recognises it.
        name: String,
        /// Bytes.
        length: u64,
    },
    /// The command printed something. [`Data`](super::Kind::Data) frames with this many bytes follow.
    Printed {
        /// Where.
        printer: Printer,
        /// Bytes.
        length: u64,
    },
    /// The command ended with this exit code, or with 128 plus the number of the signal that ended it. The last
    /// message.
    CommandEnded(u8),
    /// The run is over, and its evidence has been sent as a file. The last message.
    Done,
    /// The run could not be made, for this reason in the agent's own terms. The last message.
    Failed(Box<RawValue>),
}

/// From the guest's first process to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromInit {
    /// The guest has booted.
    Up,
    /// The guest is alive. Sent every second.
    Heartbeat,
    /// The guest cannot do its work, for this reason.
    Broken(String),
    /// The agent has ended, and the guest powers off.
    AgentEnded {
        /// How.
        end: AgentEnd,
        /// Processes that the guest's kernel killed because memory ran out.
        oom_kills: u64,
    },
}

/// How the agent ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentEnd {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it, such as `SIGKILL`.
    Signalled(String),
}
