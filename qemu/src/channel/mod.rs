//! The channel between host and guest: frames and messages.

mod frame;
mod message;
mod relay;
mod stream;

pub use frame::{Decoder, Encoder, Frame, FrameError, Kind, LONGEST};
pub use message::{AGENT_PORT, AgentEnd, FromAgent, FromInit, INIT_PORT, LOAD_PORT, Printer, Terminal, ToAgent};
pub use relay::{LONGEST_PIECE, NoPiece, Piece, Step, UNIX, next_piece};
pub use stream::{Incoming, Outgoing, StreamError};
