//! Reads damaged streams between host and guest. A panic, a hang, excessive memory use, or a damaged frame that passes for
//! a right one is a finding.
//!
//! An input is a list of payloads, each after its kind and its length, and then damage to the bytes of their stream. So
//! messages are reached behind the checksums. The first byte says how long the pieces are in which the bytes arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memgate_qemu::channel::{
    Decoder, Encoder, Frame, FromAgent, FromInit, Incoming, Kind, LONGEST, LONGEST_PIECE, StreamError, ToAgent,
    next_piece,
};

/// All frames of a stream that arrives in pieces of this length, and whether it ended in an error.
fn frames(stream: &[u8], piece: usize) -> (Vec<Frame>, bool) {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for bytes in stream.chunks(piece) {
        decoder.push(bytes);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next_frame(), Err(error), "an error stays");
                    return (frames, true);
                }
            }
        }
    }
    (frames, false)
}

/// Reads messages and what they announce until the stream ends or is wrong.
fn messages<M: serde::de::DeserializeOwned>(stream: &[u8], announced: impl Fn(&M) -> Option<u64>) {
    let mut incoming = Incoming::new(stream);
    let mut read = || -> Result<(), StreamError> {
        let message = incoming.message::<M>()?;
        announced(&message).map_or(Ok(()), |length| incoming.data(length, &mut std::io::sink()))
    };
    while read().is_ok() {}
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, mut rest)) = input.split_first() else { return };
    let piece = usize::from(first) + 1;
    let (mut encoder, mut stream, mut sent) = (Encoder::default(), Vec::new(), Vec::new());
    while let [kind, length, more @ ..] = rest {
        let (payload, others) = more.split_at(usize::from(*length).min(more.len()));
        let kind = if kind & 1 == 0 { Kind::Message } else { Kind::Data };
        stream.extend(encoder.encode(kind, payload));
        sent.push(Frame { kind, payload: payload.to_vec() });
        rest = others;
        if sent.len() == 8 {
            break;
        }
    }
    assert_eq!(frames(&stream, piece), (sent.clone(), false), "a whole stream is read as it was sent");
    messages(&stream, |message| match message {
        ToAgent::File { length, .. } => Some(*length),
        _ => None,
    });
    messages(&stream, |message| match message {
        FromAgent::File { length, .. } | FromAgent::Printed { length, .. } => Some(*length),
        _ => None,
    });
    messages::<FromInit>(&stream, |_| None);

    // Four bytes of damage: a place and a value.
    let mut damaged = stream.clone();
    for damage in rest.chunks_exact(4) {
        let at = usize::from(u16::from_le_bytes([damage[0], damage[1]])) % damaged.len().max(1);
        if let Some(byte) = damaged.get_mut(at) {
            *byte ^= damage[2];
        }
        damaged.truncate(damaged.len() - usize::from(damage[3] & 1).min(damaged.len()));
    }
    let (received, _) = frames(&damaged, piece);
    let whole = received.iter().zip(&sent).take_while(|(received, sent)| received == sent).count();
    // CRC-32 finds up to three wrong bits in a frame of this length, and so does every frame after the first wrong one.
    if rest.len() / 4 == 1 && rest.get(2).is_some_and(|bits| bits.count_ones() <= 3) {
        assert_eq!(received.len(), whole, "a damaged frame passes for a right one");
    }
    assert!(received.iter().all(|frame| frame.payload.len() <= LONGEST));

    // Frames of the load's port have no checksum.
    let mut bytes = input;
    while let Ok(Some((piece, length))) = next_piece(bytes) {
        assert!(piece.payload.len() <= LONGEST_PIECE && length > 0);
        bytes = &bytes[length..];
    }
});
