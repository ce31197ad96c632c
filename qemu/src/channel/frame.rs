//! Frames on a byte stream: numbered, with a checksum, of limited length.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 to 3 | `MGC` and the version of the format, 1 |
//! | 4 to 7 | kind of the payload, little-endian as every number: 0 a message, 1 a piece of a file |
//! | 8 to 11 | the frame's number on this stream, from 0 |
//! | 12 to 15 | length of the payload, bytes |
//! | 16 to 19 | CRC-32 (IEEE 802.3) of bytes 0 to 15 and the payload |
//! | 20 on | the payload |
//!
//! Nothing is sent again, because the stream itself neither loses nor reorders bytes. A wrong frame means that its
//! sender died within it, or that something else writes to the stream. Nothing after it can be trusted.

/// `MGC` and the version.
const MAGIC: [u8; 4] = *b"MGC\x01";
const HEADER: usize = 20;

/// The longest payload, bytes.
pub const LONGEST: usize = 256 << 10;

/// The kind of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A message of the stream's protocol, as JSON.
    Message,
    /// The next bytes of the file that the previous message announced.
    Data,
}

impl Kind {
    const fn code(self) -> u32 {
        match self {
            Self::Message => 0,
            Self::Data => 1,
        }
    }
}

/// A payload and its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The kind.
    pub kind: Kind,
    /// At most [`LONGEST`] bytes.
    pub payload: Vec<u8>,
}

/// Why received bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not the start of a frame.
    #[error("{0:02x?} where a frame should begin")]
    Magic([u8; 4]),
    /// The other end speaks another version.
    #[error("frames of version {0}, not 1")]
    Version(u8),
    /// An unknown kind.
    #[error("a frame of kind {0}")]
    Kind(u32),
    /// A frame is missing or came twice.
    #[error("frame {found} where frame {expected} should be")]
    Sequence {
        /// Its number.
        found: u32,
        /// What it should be.
        expected: u32,
    },
    /// Longer than any frame is.
    #[error("a frame of {0} bytes")]
    Length(u32),
    /// The checksum differs.
    #[error("frame {0} is damaged")]
    Checksum(u32),
}

/// Makes the frames of one stream.
#[derive(Debug, Default)]
pub struct Encoder {
    next: u32,
}

impl Encoder {
    /// Continues a stream whose next frame has this number.
    pub const fn from_number(next: u32) -> Self {
        Self { next }
    }

    /// The number of the next frame.
    pub const fn number(&self) -> u32 {
        self.next
    }

    /// The bytes of the stream's next frame.
    ///
    /// # Panics
    /// When the payload is longer than [`LONGEST`].
    pub fn encode(&mut self, kind: Kind, payload: &[u8]) -> Vec<u8> {
        assert!(payload.len() <= LONGEST, "a payload of {} bytes", payload.len());
        let mut frame = Vec::with_capacity(HEADER + payload.len());
        frame.extend(MAGIC);
        #[expect(clippy::cast_possible_truncation, reason = "at most LONGEST")]
        for word in [kind.code(), self.next, payload.len() as u32] {
            frame.extend(word.to_le_bytes());
        }
        let checksum = checksum(&frame, payload);
        frame.extend(checksum.to_le_bytes());
        frame.extend(payload);
        self.next = self.next.wrapping_add(1);
        frame
    }
}

/// Parses the frames of one stream from its bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// The part of the buffer that has been returned.
    consumed: usize,
    next: u32,
}

impl Decoder {
    /// Continues a stream whose next frame has this number.
    pub fn from_number(next: u32) -> Self {
        Self { next, ..Self::default() }
    }

    /// The number of the next frame, unless a part of it has arrived.
    pub const fn boundary(&self) -> Option<u32> {
        if self.consumed == self.buffer.len() { Some(self.next) } else { None }
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..std::mem::take(&mut self.consumed));
        self.buffer.extend(bytes);
    }

    /// The next frame, if it is complete.
    ///
    /// # Errors
    /// When the received bytes are not a frame. Every further call then returns the same error.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let bytes = &self.buffer[self.consumed..];
        // A wrong start is reported at once, however few bytes there are.
        let start = &bytes[..bytes.len().min(MAGIC.len())];
        if start != &MAGIC[..start.len()] {
            let mut magic = [0; 4];
            magic[..start.len()].copy_from_slice(start);
            return Err(match magic {
                [b'M', b'G', b'C', version] => FrameError::Version(version),
                _ => FrameError::Magic(magic),
            });
        }
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [kind, number, length, sum] = [4, 8, 12, 16].map(|at| word(header, at));
        let kind = match kind {
            0 => Kind::Message,
            1 => Kind::Data,
            other => return Err(FrameError::Kind(other)),
        };
        if number != self.next {
            return Err(FrameError::Sequence { found: number, expected: self.next });
        }
        if length as usize > LONGEST {
            return Err(FrameError::Length(length));
        }
        let Some(payload) = rest.get(..length as usize) else { return Ok(None) };
        if checksum(&header[..16], payload) != sum {
            return Err(FrameError::Checksum(number));
        }
        let frame = Frame { kind, payload: payload.to_vec() };
        self.consumed += HEADER + payload.len();
        self.next = self.next.wrapping_add(1);
        Ok(Some(frame))
    }
}

fn word(header: &[u8; HEADER], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&header[at..at + 4]);
    u32::from_le_bytes(word)
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(frames: &[(bool, Vec<u8>)]) -> Vec<u8> {
        let mut encoder = Encoder::default();
        let kind = |is_data: &bool| if *is_data { Kind::Data } else { Kind::Message };
        frames.iter().flat_map(|(is_data, payload)| encoder.encode(kind(is_data), payload)).collect()
    }

    /// Every frame of a stream that arrives in pieces, and how the stream ended.
    fn decoded(bytes: &[u8], piece: usize) -> (Vec<Frame>, Option<FrameError>) {
        let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            decoder.push(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(
            frames in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..2000)), 0..8),
            piece in 1_usize..3000,
        ) {
            let (found, error) = decoded(&stream(&frames), piece);
            prop_assert_eq!(error, None);
            let found: Vec<_> = found.into_iter().map(|frame| (frame.kind == Kind::Data, frame.payload)).collect();
            prop_assert_eq!(found, frames);
        }

        #[test]
        fn one_wrong_bit_is_seen(
            payload in prop::collection::vec(any::<u8>(), 1..300),
            bit in any::<prop::sample::Index>(),
        ) {
            let mut bytes = stream(&[(false, payload.clone()), (true, payload)]);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (found, error) = decoded(&bytes, bytes.len());
            // A damaged length may make the reader wait for bytes that never come. The reader has a deadline.
            prop_assert!(error.is_some() || found.len() < 2, "{:?}", found);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = stream(&[(false, b"{}".to_vec())]);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            decoded(&bytes, 7).1.unwrap().to_string()
        };
        assert_eq!(with(0, b'X'), "[58, 47, 43, 01] where a frame should begin");
        assert_eq!(with(3, 2), "frames of version 2, not 1");
        assert_eq!(with(4, 9), "a frame of kind 9");
        assert_eq!(with(8, 5), "frame 5 where frame 0 should be");
        assert_eq!(with(15, 1), "a frame of 16777218 bytes");
        assert_eq!(with(20, b'['), "frame 0 is damaged");
        assert_eq!(decoded(b"Kernel panic", 1).1, Some(FrameError::Magic([b'K', 0, 0, 0])));
    }
}
