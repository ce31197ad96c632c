//! Frames of the load's port: connections of the host's load generator that the agent continues to the service.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 to 3 | `MGL` and the version of the format, 1 |
//! | 4 to 7 | what the frame is ([`Step`]), little-endian as every number |
//! | 8 to 11 | the number of the connection, or of the phase |
//! | 12 to 15 | length of the payload, bytes |
//! | 16 to 23 | from the host: requests that have succeeded so far; from the agent: 0 |
//! | 24 on | the payload |
//!
//! There is no checksum, because the agent computes it on an emulated processor for every request. The kernel lets one
//! process open the port, so nobody else can write to it.

/// `MGL` and the version.
const MAGIC: [u8; 4] = *b"MGL\x01";
const HEADER: usize = 24;

/// The longest payload, bytes.
pub const LONGEST_PIECE: usize = 32 << 10;

/// The payload of [`Step::Open`] for the unix socket of the plan.
pub const UNIX: &str = "unix";

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Host: connect. The payload is the address, `127.0.0.1:8080`, or [`UNIX`].
    Open,
    /// Agent: the connection is there.
    Opened,
    /// Agent: the connection could not be made, or broke. The payload is the number of the system's error (errno), as
    /// 4 bytes.
    Broken,
    /// Both: the next bytes of the connection.
    Bytes,
    /// Agent: the service sends no more.
    Ended,
    /// Host: the connection is no longer needed.
    Close,
    /// Agent: the load of this phase begins.
    Begin,
    /// Host: every request of this phase has ended.
    Done,
    /// Agent: the load ends at once.
    Stop,
    /// Host: the load generator's figures, or why there are none, as JSON. Follows [`Step::Stop`] or comes instead of
    /// [`Step::Done`]. A piece of them if the payload has the greatest length.
    Figures,
}

/// Each step, by its code.
const STEPS: [Step; 10] = [
    Step::Open,
    Step::Opened,
    Step::Broken,
    Step::Bytes,
    Step::Ended,
    Step::Close,
    Step::Begin,
    Step::Done,
    Step::Stop,
    Step::Figures,
];

/// A frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// What it is.
    pub step: Step,
    /// The number of the connection or the phase.
    pub number: u32,
    /// Requests that have succeeded so far, if the host sent it.
    pub succeeded: u64,
    /// At most [`LONGEST_PIECE`] bytes.
    pub payload: &'a [u8],
}

/// Why received bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0:02x?} where a frame of the load's port should begin")]
pub struct NoPiece([u8; HEADER]);

impl Piece<'_> {
    /// Appends the frame to a stream.
    ///
    /// # Panics
    /// When the payload is longer than [`LONGEST_PIECE`].
    pub fn append_to(&self, stream: &mut Vec<u8>) {
        assert!(self.payload.len() <= LONGEST_PIECE, "a payload of {} bytes", self.payload.len());
        let step = STEPS.iter().position(|step| *step == self.step).unwrap_or_default();
        stream.reserve(HEADER + self.payload.len());
        stream.extend(MAGIC);
        #[expect(clippy::cast_possible_truncation, reason = "both are at most LONGEST_PIECE")]
        for word in [step as u32, self.number, self.payload.len() as u32] {
            stream.extend(word.to_le_bytes());
        }
        stream.extend(self.succeeded.to_le_bytes());
        stream.extend(self.payload);
    }
}

/// Takes the next frame from the front of `stream`, and gives the number of its bytes; `None` if it is not complete.
///
/// # Errors
/// When the bytes are not a frame.
pub fn next_piece(stream: &[u8]) -> Result<Option<(Piece<'_>, usize)>, NoPiece> {
    let Some((header, rest)) = stream.split_first_chunk::<HEADER>() else { return Ok(None) };
    let word = |at: usize| header[at..at + 4].iter().rev().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
    let (step, length) = (STEPS.get(word(4) as usize), word(12) as usize);
    let (Some(&step), true, true) = (step, header.starts_with(&MAGIC), length <= LONGEST_PIECE) else {
        return Err(NoPiece(*header));
    };
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    let succeeded = u64::from(word(20)) << 32 | u64::from(word(16));
    Ok(Some((Piece { step, number: word(8), succeeded, payload }, HEADER + length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(
            step in 0..STEPS.len(),
            number: u32,
            succeeded: u64,
            payload in prop::collection::vec(any::<u8>(), 0..3000),
        ) {
            let piece = Piece { step: STEPS[step], number, succeeded, payload: &payload };
            let mut stream = Vec::new();
            piece.append_to(&mut stream);
            let whole = stream.len();
            stream.extend(b"MGL");
            prop_assert_eq!(next_piece(&stream), Ok(Some((piece, whole))));
            for end in [0, HEADER - 1, HEADER, whole - 1] {
                prop_assert!(end >= whole || next_piece(&stream[..end]) == Ok(None));
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut good = Vec::new();
        Piece { step: Step::Open, number: 1, succeeded: 2, payload: b"x" }.append_to(&mut good);
        for (at, byte) in [(0, b'X'), (3, 2), (4, 10), (15, 1)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(next_piece(&bad).is_err(), "{at}");
        }
    }
}
