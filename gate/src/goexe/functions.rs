//! The functions of the Go runtime, by name and address.

use std::{collections::HashMap, ops::Range};

use object::{Object as _, ObjectSymbol as _};

use super::FunctionTable;

/// A function.
pub(super) struct Function {
    pub(super) name: String,
    pub(super) range: Range<u64>,
}

/// The functions of the package `runtime` in an executable.
///
/// A name may stand for two functions: one written in assembler, and the compiler's wrapper for it.
pub(super) struct Functions {
    all: Vec<Function>,
    by_name: HashMap<String, Vec<usize>>,
    by_entry: HashMap<u64, usize>,
    missing: Option<String>,
}

const PACKAGE: &str = "runtime.";

impl Functions {
    /// The functions that an executable has symbols for; where it has none, those of its function table.
    pub(super) fn read(file: &object::File<'_>, table: Option<&FunctionTable>) -> Self {
        let of_symbols = Self::of_symbols(file);
        match table {
            Some(table) if of_symbols.all.is_empty() => {
                Self::collect(table.functions().map(|function| (function.name, function.entry..function.end)))
            }
            _ => of_symbols,
        }
    }

    fn of_symbols(file: &object::File<'_>) -> Self {
        let symbols =
            file.symbols().filter(|symbol| symbol.kind() == object::SymbolKind::Text && symbol.is_definition());
        Self::collect(symbols.filter_map(|symbol| {
            let end = symbol.address().checked_add(symbol.size())?;
            Some((symbol.name().ok()?, symbol.address()..end))
        }))
    }

    fn collect<'name>(functions: impl Iterator<Item = (&'name str, Range<u64>)>) -> Self {
        let of_runtime = functions.filter(|(name, _)| name.starts_with(PACKAGE)).map(|(name, range)| {
            // The linker marks assembler in symbols; the function table of a stripped executable does not.
            Function { name: name.strip_suffix(".abi0").unwrap_or(name).to_owned(), range }
        });
        let mut all: Vec<_> = of_runtime.collect();
        all.sort_by_key(|function| function.range.start);
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, function) in all.iter().enumerate() {
            by_name.entry(function.name.clone()).or_default().push(index);
        }
        let by_entry = all.iter().enumerate().map(|(index, function)| (function.range.start, index)).collect();
        let missing = all.is_empty().then(|| {
            "it has no symbols, so that the runtime's functions cannot be found; build it without `-s`".to_owned()
        });
        Self { all, by_name, by_entry, missing }
    }

    /// Why there are none, if there are none.
    pub(super) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// In order of address.
    pub(super) fn all(&self) -> &[Function] {
        &self.all
    }

    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = &Function> {
        self.by_name.get(name).into_iter().flatten().filter_map(|index| self.all.get(*index))
    }

    /// The function that starts at this address.
    pub(super) fn starting_at(&self, address: u64) -> Option<&Function> {
        self.by_entry.get(&address).and_then(|index| self.all.get(*index))
    }
}
