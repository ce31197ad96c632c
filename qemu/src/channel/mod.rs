//! The channel between host and guest: frames and messages.

mod frame;
mod message;
mod stream;

pub use frame::{Decoder, Encoder, Frame, FrameError, Kind, LONGEST};
pub use message::{AGENT_PORT, AgentEnd, FromAgent, FromInit, INIT_PORT, Printer, Terminal, ToAgent, VERSION};
pub use stream::{Incoming, Outgoing, StreamError};
