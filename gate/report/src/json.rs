//! The report as it is.

use memgate_verdict::results::Report;

/// Pretty-printed JSON and a newline. A figure that is not finite becomes `null`: JSON has no other name for it.
pub(super) fn render(report: &Report) -> String {
    let mut text = serde_json::to_string_pretty(report).expect("a report has neither maps nor fallible fields");
    text.push('\n');
    text
}
