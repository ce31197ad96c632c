//! Names of functions as Go prints them.

/// The name with `[...]` for type arguments (`funcNameForPrint` in src/runtime/traceback.go, Go 1.21 and 1.27).
///
/// Since Go 1.27 a method may have type parameters beside those of its type; then both lists are replaced and the method's name between them stays.
pub(super) fn printed(name: &str, go_minor: u32) -> String {
    let (Some((before, rest)), Some((start, after))) = (name.split_once('['), name.rsplit_once(']')) else {
        return name.to_owned();
    };
    // What is between the first bracket and the last.
    let Some(inside) = start.len().checked_sub(before.len()).and_then(|length| rest.get(..length.checked_sub(1)?))
    else {
        return name.to_owned();
    };
    if go_minor < 27 {
        return format!("{before}[...]{after}");
    }
    match between_lists(inside) {
        Ok(Some(between)) => format!("{before}[...]{between}[...]{after}"),
        Ok(None) => format!("{before}[...]{after}"),
        Err(Unbalanced) => name.to_owned(),
    }
}

/// The brackets do not pair up.
struct Unbalanced;

/// What lies between the end of the first list and the start of the second, or `None` when there is but one list.
fn between_lists(inside: &str) -> Result<Option<&str>, Unbalanced> {
    let mut depth = 1_usize;
    let mut end_of_first = None;
    for (at, character) in inside.char_indices() {
        match character {
            '[' => {
                depth = depth.saturating_add(1);
                if depth == 1 {
                    return Ok(end_of_first.and_then(|end| inside.get(end..at)));
                }
            }
            ']' => {
                depth = depth.checked_sub(1).ok_or(Unbalanced)?;
                if depth == 0 {
                    end_of_first = at.checked_add(1);
                }
            }
            _ => {}
        }
    }
    if depth == 1 && end_of_first.is_none() { Ok(None) } else { Err(Unbalanced) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_arguments_are_not_printed() {
        for go_minor in [21, 27] {
            let printed = |name| printed(name, go_minor);
            assert_eq!(printed("main.main"), "main.main");
            assert_eq!(printed("main.Map[go.shape.int]"), "main.Map[...]");
            assert_eq!(printed("main.Map[go.shape.[]int].func1"), "main.Map[...].func1");
            assert_eq!(printed("main.(*Set[go.shape.map[string][]int]).Add"), "main.(*Set[...]).Add");
            assert_eq!(printed("odd]["), "odd][");
            assert_eq!(printed("odd["), "odd[");
            assert_eq!(printed(""), "");
        }
    }

    #[test]
    fn both_lists_of_a_generic_method_are_replaced_since_1_27() {
        let name = "main.(*Set[go.shape.int]).Map[go.shape.[]string].func1";
        assert_eq!(printed(name, 26), "main.(*Set[...].func1");
        assert_eq!(printed(name, 27), "main.(*Set[...]).Map[...].func1");
        assert_eq!(printed("a[b]]c]", 27), "a[b]]c]");
        assert_eq!(printed("a[b]c[[d]", 27), "a[...]c[...]");
    }
}
