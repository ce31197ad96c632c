//! Names of native functions from the ELF symbols, in the form of the source.

use std::fmt::{self, Write as _};

use object::{
    LittleEndian,
    elf::{STT_FUNC, STT_GNU_IFUNC, Sym64},
    read::elf::Sym as _,
};

/// The longest name that is read or written, bytes. C++ templates have some thousand; a hostile symbol may be of any
/// length.
pub(super) const MAXIMUM_NAME: usize = 4096;
/// The deepest nesting in a mangled name. LLVM's demangler follows more by default, and names in stacks need less.
const MAXIMUM_NESTING: u32 = 96;

/// The functions of a symbol table.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    /// In order of address, one for each address.
    functions: Vec<Symbol>,
    /// The names, each with a zero at its end.
    strings: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Symbol {
    address: u64,
    /// 0 if an assembler did not write it.
    size: u64,
    /// The offset of its name in the strings.
    name: u32,
    local: bool,
}

impl Symbols {
    /// The functions of a table and its strings.
    pub(super) fn new(table: &[Sym64<LittleEndian>], strings: &[u8]) -> Self {
        let endian = LittleEndian;
        let mut functions: Vec<_> = table
            .iter()
            .filter(|symbol| matches!(symbol.st_type(), STT_FUNC | STT_GNU_IFUNC) && !symbol.is_undefined(endian))
            .map(|symbol| Symbol {
                address: symbol.st_value(endian),
                size: symbol.st_size(endian),
                name: symbol.st_name(endian),
                local: symbol.is_local(),
            })
            .collect();
        let mut symbols = Self { functions: Vec::new(), strings: strings.to_vec() };
        // If a function has several names, the usual one in source code comes first: `malloc`, not `__libc_malloc`.
        functions.sort_by(|a, b| (a.address, symbols.rank(a)).cmp(&(b.address, symbols.rank(b))));
        functions.dedup_by_key(|symbol| symbol.address);
        functions.shrink_to_fit();
        symbols.functions = functions;
        symbols
    }

    pub(super) fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// Their size in memory, bytes.
    pub(super) fn size(&self) -> usize {
        self.strings.len().saturating_add(self.functions.len().saturating_mul(size_of::<Symbol>()))
    }

    /// The name, in the form of the source, of the function that contains an address.
    pub(super) fn at(&self, address: u64) -> Option<String> {
        let behind = self.functions.partition_point(|symbol| symbol.address <= address);
        let symbol = self.functions.get(behind.checked_sub(1)?)?;
        let holds = symbol.size == 0 || address.wrapping_sub(symbol.address) < symbol.size;
        holds.then(|| demangled(self.name(symbol))).filter(|name| !name.is_empty())
    }

    fn name(&self, symbol: &Symbol) -> &[u8] {
        let rest = usize::try_from(symbol.name).ok().and_then(|start| self.strings.get(start..)).unwrap_or_default();
        let rest = rest.get(..MAXIMUM_NAME).unwrap_or(rest);
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Orders the names at one address, the best first.
    fn rank(&self, symbol: &Symbol) -> impl Ord + use<'_> {
        let name = self.name(symbol);
        let underscores = name.iter().take_while(|byte| **byte == b'_').count();
        (symbol.size == 0, symbol.local, underscores, name.len(), name)
    }
}

/// A name in the form of the source. C++ and Rust names lose their parameters and hash; others stay unchanged.
pub(super) fn demangled(name: &[u8]) -> String {
    let plain = String::from_utf8_lossy(name.get(..MAXIMUM_NAME).unwrap_or(name));
    let mut text = Bounded(String::new());
    let written = match rustc_demangle::try_demangle(&plain) {
        Ok(name) => write!(text, "{name:#}").is_ok(),
        Err(_) => plain.starts_with("_Z") && demangle_cpp(&plain, &mut text).is_some(),
    };
    if written { text.0 } else { plain.into_owned() }
}

fn demangle_cpp(name: &str, text: &mut Bounded) -> Option<()> {
    let parse = cpp_demangle::ParseOptions::default().recursion_limit(MAXIMUM_NESTING);
    let write = cpp_demangle::DemangleOptions::default().no_params().no_return_type().recursion_limit(MAXIMUM_NESTING);
    let symbol = cpp_demangle::Symbol::new_with_options(name.as_bytes(), &parse).ok()?;
    symbol.structured_demangle(text, &write).ok()
}

/// A text that does not grow beyond the longest name. Mangled names can represent exponentially long ones.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len().saturating_add(text.len()) > MAXIMUM_NAME {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_in_the_source() {
        let cases = [
            ("malloc", "malloc"),
            ("_ZN3foo3barEi", "foo::bar"),
            ("_ZNSt6vectorIiSaIiEE9push_backERKi", "std::vector<int, std::allocator<int> >::push_back"),
            ("_ZN4core3fmt9Formatter3pad17h1234567890abcdefE", "core::fmt::Formatter::pad"),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            ("_Znonsense", "_Znonsense"),
            ("_cgo_2d8fdc8d1e4b_Cfunc_leak", "_cgo_2d8fdc8d1e4b_Cfunc_leak"),
        ];
        for (mangled, expected) in cases {
            assert_eq!(demangled(mangled.as_bytes()), expected);
        }
    }

    #[test]
    fn a_name_that_grows_exponentially_stays_mangled() {
        // Each substitution doubles the previous one.
        let mut bomb = "_Z1fI1aS_E".to_owned();
        bomb.push_str(&"SA_".repeat(1000));
        assert!(demangled(bomb.as_bytes()).len() <= MAXIMUM_NAME);
        let doubling: String = (0..40).map(|_| "1fIS_S_E").collect();
        assert!(demangled(format!("_ZN1a{doubling}Ev").as_bytes()).len() <= MAXIMUM_NAME);
        assert!(demangled(&vec![b'x'; 1 << 20]).len() <= MAXIMUM_NAME);
    }
}
