//! The reference pages list every metric and every format, and nothing else. The page of obstacles names tests that exist.

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
    let named = rows(page, head).into_iter().flat_map(|cells| {
        let text = cells.get(column).copied().unwrap_or_default();
        cells[0].split(", ").map(|name| (name.trim_matches('`').to_owned(), text.to_owned())).collect::<Vec<_>>()
    });
    named.collect()
}

/// The rows of a page's first table with this head, as cells.
fn rows<'page>(page: &'page str, head: &str) -> Vec<Vec<&'page str>> {
    let rows = page.lines().skip_while(|line| !line.starts_with(head)).skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
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

/// Whether this file has this test. A file without a path is that of an integration test.
fn has_test(file: &str, name: &str) -> bool {
    let of_package = |package: &str| repository().join(package).join("tests").join(file).with_extension("rs");
    let places = [repository().join(file), of_package("gate/memgate"), of_package("qemu")];
    let found = places.iter().find_map(|place| std::fs::read_to_string(place).ok());
    let source = found.unwrap_or_default();
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let is_function = |pair: &[&str]| pair[0].ends_with("test]") && pair[1].contains(&format!("fn {name}("));
    // A macro may make a test of each of its lines.
    let is_made =
        source.contains("#[test] fn $name()") && lines.iter().any(|line| line.starts_with(&format!("{name}: ")));
    is_made || lines.windows(2).any(is_function)
}

#[test]
fn the_page_of_obstacles_names_tests_that_exist() {
    let page = page("explanation/obstacles.md");
    let rows_of = |head: &str, columns: usize| {
        let rows = rows(&page, head);
        for row in &rows {
            assert_eq!(row.len(), columns, "{row:?}");
            let test = row[columns - 1].trim_matches('`');
            let (file, name) = test.rsplit_once("::").unwrap_or_else(|| panic!("{test} names no file"));
            assert!(has_test(file, name), "{test} does not exist");
        }
        rows.len()
    };
    let [obstacles, attempts] = [rows_of("| obstacle |", 6), rows_of("| attempt |", 4)];
    assert!(obstacles >= 40 && attempts > 0, "{obstacles} obstacles and {attempts} attempts");
    assert!(has_test("docs", "a_row_that_is_missing_is_seen") && !has_test("docs", "has_test"), "a helper is no test");
}

#[test]
fn a_row_that_is_missing_is_seen() {
    let page = "text\n| metric | unit | more |\n| --- | --- | --- |\n| `a`, `b` | ns | x |\n| `c` | bytes | y |\n\n| `d` | no |\n";
    let of = |name: &str, unit: &str| (name.to_owned(), unit.to_owned());
    assert_eq!(table(page, "| metric | unit |"), BTreeMap::from([of("a", "ns"), of("b", "ns"), of("c", "bytes")]));
}
