//! The reference pages list every metric and every format, and nothing else.

mod common;

use std::collections::BTreeMap;

use common::repository;
use memgate_report::Format;
use memgate_verdict::{
    metric::{Beside, Comparison, DefaultLimit, Limits, Metric, Unit},
    units,
};

/// The names in a page's first table with this head, each with the text of its second column. A row may name several.
fn table(page: &str, head: &str) -> BTreeMap<String, String> {
    column(page, head, 1)
}

/// The same with the text of another column; the first is 0.
fn column(page: &str, head: &str, column: usize) -> BTreeMap<String, String> {
    let rows = page.lines().skip_while(|line| !line.starts_with(head)).skip(2).take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let text = cells.get(column).copied().unwrap_or_default();
        cells[0].split(", ").map(|name| (name.trim_matches('`').to_owned(), text.to_owned())).collect::<Vec<_>>()
    })
    .collect()
}

fn page(path: &str) -> String {
    std::fs::read_to_string(repository().join("docs").join(path)).expect("the page is there")
}

#[test]
fn the_page_of_metrics_has_every_metric_with_its_unit() {
    let named = table(&page("reference/metrics.md"), "| metric | unit |");
    let known = Metric::ALL.map(|metric| (metric.name().to_owned(), metric.unit().name().to_owned()));
    assert_eq!(named, BTreeMap::from(known));
}

#[test]
fn the_page_of_baselines_has_every_default_limit_and_every_comparison() {
    let page = page("reference/baselines.md");
    let limits = table(&page, "| metric | `general` | `xinchuang` |");
    let comparisons = table(&page, "| metric | tolerance | floor |");
    for metric in Metric::ALL {
        let limit = metric.default_limit(Limits::General).or_else(|| metric.default_limit(Limits::Xinchuang));
        assert_eq!(limits.contains_key(metric.name()), limit.is_some(), "the default limit of {metric}");
        let general = limits.get(metric.name()).map(String::as_str).unwrap_or_default();
        let text = match metric.default_limit(Limits::General) {
            None if limit.is_some() => "none".to_owned(),
            None => String::new(),
            Some(DefaultLimit::Fixed(limit)) => units::format_exact(limit, metric.unit()),
            Some(DefaultLimit::Growth { bytes, share }) => {
                let (bytes, share) =
                    (units::format_exact(bytes, metric.unit()), units::format_exact(share, Unit::Ratio));
                format!("{bytes}, or {share} a minute")
            }
        };
        assert_eq!(general, text, "{metric}");
        assert_eq!(comparisons.contains_key(metric.name()), metric.comparison().is_some(), "{metric}");
        if let Some(comparison) = metric.comparison() {
            let tolerance = units::format_exact(comparison.tolerance, Unit::Ratio);
            assert!(comparisons[metric.name()].starts_with(&tolerance), "{metric}: {tolerance}");
        }
    }
}

#[test]
fn the_page_of_metrics_has_every_difference_from_another_build() {
    let (page, head) = (page("reference/metrics.md"), "| metric | fails | does not pass |");
    let difference = |comparison: Comparison, unit: Unit| {
        let share = units::format_exact(comparison.tolerance, Unit::Ratio);
        let advisory = if comparison.advisory { ", advisory" } else { "" };
        match comparison.floor {
            Some(floor) => format!("{share}, {}{advisory}", units::format_exact(floor, unit)),
            None => format!("{share}{advisory}"),
        }
    };
    let of = |side: fn(Beside) -> Comparison| {
        let rows = Metric::ALL
            .into_iter()
            .filter_map(|metric| Some((metric.name().to_owned(), difference(side(metric.beside()?), metric.unit()))));
        rows.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(column(&page, head, 1), of(|beside| beside.closely));
    assert_eq!(column(&page, head, 2), of(|beside| beside.undecided));
}

#[test]
fn the_page_of_reports_has_every_format_with_its_sentence() {
    let rows = table(&page("reference/reports.md"), "| `F` |");
    for format in Format::ALL {
        let row = rows.get(format.name()).map(String::as_str).unwrap_or_default();
        assert!(row.starts_with(format.sentence()), "`{format}`: {row:?} does not begin with {:?}", format.sentence());
    }
    assert_eq!(rows.len(), Format::ALL.len(), "{rows:?}");
}

#[test]
fn a_row_that_is_missing_is_seen() {
    let page = "text\n| metric | unit | more |\n| --- | --- | --- |\n| `a`, `b` | ns | x |\n| `c` | bytes | y |\n\n| `d` | no |\n";
    let of = |name: &str, unit: &str| (name.to_owned(), unit.to_owned());
    assert_eq!(table(page, "| metric | unit |"), BTreeMap::from([of("a", "ns"), of("b", "ns"), of("c", "bytes")]));
}
