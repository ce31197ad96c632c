//! One direction of a stream, for blocking code on the guest's side.

use std::io::{Read, Write};

use serde::{Serialize, de::DeserializeOwned};

use super::frame::{Decoder, Encoder, Frame, FrameError, Kind, LONGEST};

/// Why a stream can no longer be used.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// It cannot be read or written.
    #[error("the channel: {0}")]
    Io(#[from] std::io::Error),
    /// The received bytes are not a frame.
    #[error("the channel: {0}")]
    Frame(#[from] FrameError),
    /// A frame contains an unknown message.
    #[error("the channel: a message that is not understood: {0}")]
    Message(#[from] serde_json::Error),
    /// A piece of a file came without an announcement, or a message came within a file.
    #[error("the channel: {0}")]
    Order(&'static str),
}

/// Writes frames.
#[derive(Debug)]
pub struct Outgoing<W> {
    to: W,
    encoder: Encoder,
}

impl<W: Write> Outgoing<W> {
    /// Starts a stream.
    pub fn new(to: W) -> Self {
        Self { to, encoder: Encoder::default() }
    }

    /// Writes a message. Blocks while the other end does not read.
    ///
    /// # Errors
    /// When it cannot be written, or is too long for a frame.
    pub fn message(&mut self, message: &impl Serialize) -> Result<(), StreamError> {
        let payload = serde_json::to_vec(message)?;
        if payload.len() > LONGEST {
            return Err(StreamError::Order("a message that is longer than a frame"));
        }
        Ok(self.to.write_all(&self.encoder.encode(Kind::Message, &payload))?)
    }

    /// Writes the bytes of a file that a message announced.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        for piece in bytes.chunks(LONGEST) {
            self.to.write_all(&self.encoder.encode(Kind::Data, piece))?;
        }
        Ok(())
    }
}

/// Reads frames.
#[derive(Debug)]
pub struct Incoming<R> {
    from: R,
    decoder: Decoder,
}

impl<R: Read> Incoming<R> {
    /// Starts a stream.
    pub fn new(from: R) -> Self {
        Self { from, decoder: Decoder::default() }
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// When the stream ends, or when the received bytes are not a message.
    pub fn message<M: DeserializeOwned>(&mut self) -> Result<M, StreamError> {
        match self.frame()? {
            Frame { kind: Kind::Message, payload } => Ok(serde_json::from_slice(&payload)?),
            Frame { kind: Kind::Data, .. } => Err(StreamError::Order("a piece of a file that nobody announced")),
        }
    }

    /// Waits for a file of `length` bytes, which a message announced, and writes it to `to`.
    ///
    /// # Errors
    /// When the stream ends, when something else comes, or when `to` cannot be written.
    pub fn data(&mut self, length: u64, to: &mut impl Write) -> Result<(), StreamError> {
        let mut left = length;
        while left > 0 {
            let Frame { kind: Kind::Data, payload } = self.frame()? else {
                return Err(StreamError::Order("a message where a file should go on"));
            };
            left = left
                .checked_sub(payload.len() as u64)
                .filter(|_| !payload.is_empty())
                .ok_or(StreamError::Order("a file of another length than announced"))?;
            to.write_all(&payload)?;
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<Frame, StreamError> {
        let mut bytes = vec![0; 64 << 10];
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(frame);
            }
            match self.from.read(&mut bytes)? {
                0 => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
                read => self.decoder.push(&bytes[..read]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FromInit, ToAgent};
    use super::*;

    #[test]
    fn messages_and_files_arrive() {
        let mut bytes = Vec::new();
        let mut outgoing = Outgoing::new(&mut bytes);
        let file = vec![7; LONGEST * 2 + 5];
        outgoing.message(&ToAgent::File { path: "/service".into(), mode: 0o755, length: file.len() as u64 }).unwrap();
        outgoing.data(&file).unwrap();
        outgoing.message(&FromInit::Heartbeat).unwrap();
        let mut incoming = Incoming::new(bytes.as_slice());
        let ToAgent::File { length, .. } = incoming.message().unwrap() else { panic!("another message") };
        let mut stored = Vec::new();
        incoming.data(length, &mut stored).unwrap();
        assert!(stored == file);
        assert_eq!(incoming.message::<FromInit>().unwrap(), FromInit::Heartbeat);
        assert!(matches!(incoming.message::<FromInit>(), Err(StreamError::Io(_))), "the stream has ended");
    }

    #[test]
    fn what_comes_in_the_wrong_order_is_refused() {
        let mut bytes = Vec::new();
        let mut outgoing = Outgoing::new(&mut bytes);
        outgoing.data(b"abc").unwrap();
        outgoing.message(&FromInit::Heartbeat).unwrap();
        assert!(matches!(Incoming::new(bytes.as_slice()).message::<FromInit>(), Err(StreamError::Order(_))));
        for length in [2, 4] {
            let stored = Incoming::new(bytes.as_slice()).data(length, &mut Vec::new());
            assert!(matches!(stored, Err(StreamError::Order(_))), "{length}");
        }
    }
}
