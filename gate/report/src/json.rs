//! The report as JSON.

use memgate_verdict::results::Report;

use super::Style;

/// Pretty-printed JSON and a newline. A figure that is not finite becomes `null`, because JSON cannot express it.
pub(super) fn render(report: &Report, _style: Style) -> String {
    let mut text = serde_json::to_string_pretty(report).expect("a report has neither maps nor fallible fields");
    text.push('\n');
    text
}
