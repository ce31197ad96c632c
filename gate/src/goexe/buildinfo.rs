//! The Go version that the linker writes into every executable.

use object::{Object as _, ObjectSection as _};

/// Starts the section; see src/debug/buildinfo/buildinfo.go (Go 1.27).
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// The strings follow in the section itself, as they do since Go 1.18.
const INLINE_STRINGS: u8 = 2;
const HEADER: usize = 32;
const FLAGS: usize = 15;

/// The version, `go1.27.3`.
///
/// # Errors
/// When the executable was not built by Go, or by one before 1.22, whose runtime memgate does not know yet.
pub(super) fn go_version(file: &object::File<'_>) -> Result<String, String> {
    let not_go = || "not built by Go, or by a Go older than 1.18".to_owned();
    let section = file.section_by_name(".go.buildinfo").ok_or_else(not_go)?;
    let data = section.data().map_err(|error| format!("its build information cannot be read: {error}"))?;
    if !data.starts_with(MAGIC) || data.get(FLAGS).is_none_or(|flags| flags & INLINE_STRINGS == 0) {
        return Err(not_go());
    }
    let version = data.get(HEADER..).and_then(prefixed_string).ok_or("its build information is cut off")?;
    match minor(version) {
        Some(minor) if minor >= 22 => Ok(version.to_owned()),
        _ => Err(format!("built by {version}; memgate measures Go 1.22 and later")),
    }
}

/// A string behind its length as a varint (encoding/binary, Go).
fn prefixed_string(data: &[u8]) -> Option<&str> {
    let mut length = 0_usize;
    for (index, byte) in data.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return std::str::from_utf8(data.get(index + 1..)?.get(..length)?).ok();
        }
    }
    None
}

/// 27 for `go1.27.3`, `go1.27rc1` and `go1.27.3 X:experiment`; `None` for anything else, development versions included.
fn minor(version: &str) -> Option<u32> {
    let rest = version.strip_prefix("go1.")?;
    let digits = rest.find(|character: char| !character.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_read_behind_its_length() {
        assert_eq!(prefixed_string(b"\x08go1.27.3rest"), Some("go1.27.3"));
        assert_eq!(prefixed_string(b"\x08go1.27"), None);
        assert_eq!(prefixed_string(b"\xff\xff\xff\xff\xff"), None);
        assert_eq!(prefixed_string(b""), None);
    }

    #[test]
    fn the_minor_version_is_read() {
        assert_eq!(minor("go1.27.3"), Some(27));
        assert_eq!(minor("go1.22"), Some(22));
        assert_eq!(minor("go1.27rc1"), Some(27));
        assert_eq!(minor("devel go1.28-abc"), None);
    }
}
