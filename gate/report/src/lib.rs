//! Reports for people and machines. Each format has its own file.
#![forbid(unsafe_code)]

mod flamegraphs;
mod format;
mod github;
mod history;
mod history_svg;
mod json;
mod junit;
mod markdown;
mod repository;
mod terminal;
mod text;
mod view;
mod write;

pub use flamegraphs::{FlameGraphFiles, write_flame_graphs};
pub use format::{Format, Output, Style, render, validate};
pub use github::step_summary;
pub use history::{history_json, history_text};
pub use history_svg::write_history_pictures;
pub use repository::locate;
pub use text::{shell_word, visible};
pub use view::{repeat_command, site_lines};
pub use write::{FailedOutput, ReportError, append_step_summary, write};

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
