//! Unary gRPC requests (doc/PROTOCOL-HTTP2.md of github.com/grpc/grpc).

use hyper::{
    HeaderMap,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderName, HeaderValue, TE},
};

use super::RequestFailure;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The body of a request with this message: whether it is compressed, its length, and itself.
pub(super) fn body(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], &length[..], message].concat().into()
}

/// Adds the fields that make a request a gRPC one.
pub(super) fn add_to(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
}

/// Checks the status of an answer, which is in its trailers, or in its header if it has no message. `expected` are the
/// statuses that count as success; if there are none, only 0 does.
///
/// # Errors
/// Fails with the status if it does not count as success, and with [`RequestFailure::Malformed`] if there is none.
pub(super) fn check(headers: &HeaderMap, trailers: Option<&HeaderMap>, expected: &[u8]) -> Result<(), RequestFailure> {
    let status = trailers.and_then(|trailers| trailers.get(STATUS)).or_else(|| headers.get(STATUS));
    let code = status.and_then(|status| status.to_str().ok()?.parse().ok()).ok_or(RequestFailure::Malformed)?;
    let is_success = if expected.is_empty() { code == 0 } else { expected.contains(&code) };
    if is_success { Ok(()) } else { Err(RequestFailure::Grpc(code)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(status: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(STATUS, HeaderValue::from_static(status))])
    }

    #[test]
    fn a_message_has_a_prefix() {
        assert_eq!(body(b"abc")[..], *b"\0\0\0\0\x03abc");
        assert_eq!(body(b"")[..], [0; 5]);
    }

    #[test]
    fn the_status_is_in_the_trailers_or_in_the_header() {
        let none = HeaderMap::new();
        assert_eq!(check(&none, Some(&fields("0")), &[]), Ok(()));
        assert_eq!(check(&fields("0"), None, &[]), Ok(()));
        assert_eq!(check(&fields("5"), None, &[]), Err(RequestFailure::Grpc(5)));
        assert_eq!(check(&none, Some(&fields("5")), &[0, 5]), Ok(()));
        assert_eq!(check(&none, Some(&fields("0")), &[5]), Err(RequestFailure::Grpc(0)));
        assert_eq!(check(&none, Some(&none), &[]), Err(RequestFailure::Malformed));
        assert_eq!(check(&none, Some(&fields("OK")), &[]), Err(RequestFailure::Malformed));
    }

    #[test]
    fn statuses_have_their_names() {
        let names = [5, 14, 99].map(|code| RequestFailure::Grpc(code).to_string());
        assert_eq!(names, ["gRPC NOT_FOUND", "gRPC UNAVAILABLE", "gRPC status 99"]);
    }
}
