//! What one build has more of than another, by call site.

use std::collections::BTreeMap;

use super::sites::{Site, SiteKind};

/// The call sites of `change` that have more than those of `other`, with the difference as their amount, largest first.
/// `scale` is the number of runs of the one as a multiple of the other's.
///
/// Lines move from one build to the other, and keep their order within a function. So the sites of a function are paired
/// in the order of their lines, such that the differences are as small as can be (an edit distance whose costs are
/// amounts). A difference of less than two standard errors of both samples is left out, or else stays if all are so
/// small and `suspects` are wanted: what is known to have grown has grown somewhere.
pub fn grown(change: &[Site], other: &[Site], scale: f64, suspects: bool) -> Vec<Site> {
    let mut functions: BTreeMap<_, (Vec<&Site>, Vec<&Site>)> = BTreeMap::new();
    for site in change {
        functions.entry(function(site)).or_default().0.push(site);
    }
    for site in other {
        functions.entry(function(site)).or_default().1.push(site);
    }
    let mut grown: Vec<Site> = functions
        .into_values()
        .flat_map(|(mut change, mut other)| {
            change.sort_by_key(|site| (site.at.line, site.own.as_ref().map(|own| own.line)));
            other.sort_by_key(|site| (site.at.line, site.own.as_ref().map(|own| own.line)));
            paired(&change, &other, scale)
        })
        .filter_map(|(site, other)| difference(site, other, scale))
        .collect();
    let is_certain = |site: &Site| site.error.is_none_or(|error| error < 1.0);
    if !suspects || grown.iter().any(is_certain) {
        grown.retain(is_certain);
    }
    let total: f64 = grown.iter().map(|site| site.amount).sum();
    for site in &mut grown {
        site.share = site.amount / total;
    }
    grown.sort_by(|one, other| other.amount.total_cmp(&one.amount));
    grown
}

/// What stays the same if lines move.
fn function(site: &Site) -> (SiteKind, &str, Option<&str>, Option<&str>) {
    let own = site.own.as_ref().map(|own| own.function.as_str());
    (site.kind, &site.at.function, own, site.starts.as_deref())
}

/// Each site of `change` with the site of `other` that it was, if there is one.
fn paired<'a>(change: &[&'a Site], other: &[&'a Site], scale: f64) -> Vec<(&'a Site, Option<&'a Site>)> {
    let of_other = |index: usize| scale * other[index].amount;
    // costs[i][j]: the least difference between the first i sites of the one and the first j of the other.
    let mut costs = vec![vec![0.0; other.len() + 1]; change.len() + 1];
    for i in 0..=change.len() {
        for j in 0..=other.len() {
            let only_here = (i > 0).then(|| costs[i - 1][j] + change[i - 1].amount);
            let only_there = (j > 0).then(|| costs[i][j - 1] + of_other(j - 1));
            let both = (i > 0 && j > 0).then(|| costs[i - 1][j - 1] + (change[i - 1].amount - of_other(j - 1)).abs());
            costs[i][j] = [only_here, only_there, both].into_iter().flatten().reduce(f64::min).unwrap_or(0.0);
        }
    }
    let (mut i, mut j) = (change.len(), other.len());
    let mut pairs = Vec::new();
    while i > 0 {
        let both = (j > 0).then(|| costs[i - 1][j - 1] + (change[i - 1].amount - of_other(j - 1)).abs());
        if both.is_some_and(|both| both <= costs[i][j]) {
            (i, j) = (i - 1, j - 1);
            pairs.push((change[i], Some(other[j])));
        } else if j > 0 && costs[i][j - 1] + of_other(j - 1) <= costs[i][j] {
            j -= 1;
        } else {
            i -= 1;
            pairs.push((change[i], None));
        }
    }
    pairs
}

/// The site with what it has more, and the error of that; `None` if that is nothing.
fn difference(site: &Site, other: Option<&Site>, scale: f64) -> Option<Site> {
    let before = other.map_or(0.0, |other| scale * other.amount);
    let amount = site.amount - before;
    let absolute = |site: &Site, amount: f64| site.error.map(|error| error * amount);
    let errors = [absolute(site, site.amount), other.and_then(|other| absolute(other, before))];
    let doubt = errors.into_iter().flatten().reduce(f64::hypot);
    (amount >= 0.5).then(|| Site { amount, error: doubt.map(|doubt| doubt / amount), ..site.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metric::Unit, summarise::SourceLocation};

    fn site(function: &str, line: u32, amount: f64) -> Site {
        let at = SourceLocation { function: function.into(), file: "a.go".into(), line, in_repository: false };
        Site {
            kind: SiteKind::Heap,
            at: at.clone(),
            own: Some(at),
            starts: None,
            amount,
            unit: Unit::Bytes,
            share: 0.5,
            samples: None,
            error: None,
        }
    }

    fn sampled(function: &str, line: u32, amount: f64, error: f64) -> Site {
        Site { samples: Some(100), error: Some(error), ..site(function, line, amount) }
    }

    fn shown(sites: &[Site]) -> Vec<(&str, u32, f64)> {
        sites.iter().map(|site| (site.at.function.as_str(), site.at.line, site.amount)).collect()
    }

    #[test]
    fn the_same_code_has_not_grown() {
        let sites = [site("main.f", 10, 500.0), site("main.f", 20, 100.0), site("main.g", 5, 70.0)];
        assert_eq!(shown(&grown(&sites, &sites, 1.0, false)), []);
    }

    #[test]
    fn lines_that_move_have_not_grown_and_a_new_line_between_them_has() {
        let before = [site("main.f", 10, 500.0), site("main.f", 20, 100.0)];
        let after = [site("main.f", 14, 500.0), site("main.f", 15, 300.0), site("main.f", 25, 101.0)];
        assert_eq!(shown(&grown(&after, &before, 1.0, false)), [("main.f", 15, 300.0), ("main.f", 25, 1.0)]);
        assert_eq!(shown(&grown(&before, &after, 1.0, false)), []);
    }

    #[test]
    fn what_grew_has_its_difference_and_its_share_of_all_growth() {
        let before = [site("main.f", 10, 500.0), site("main.gone", 1, 900.0)];
        let after = [site("main.f", 10, 800.0), site("main.new", 7, 100.0)];
        let grown = grown(&after, &before, 1.0, false);
        assert_eq!(shown(&grown), [("main.f", 10, 300.0), ("main.new", 7, 100.0)]);
        assert_eq!(grown.iter().map(|site| site.share).collect::<Vec<_>>(), [0.75, 0.25]);
    }

    #[test]
    fn builds_with_different_numbers_of_runs_are_scaled() {
        let (one, three) = ([site("main.f", 10, 500.0)], [site("main.f", 10, 1500.0)]);
        assert_eq!(shown(&grown(&three, &one, 3.0, false)), []);
    }

    #[test]
    fn a_difference_within_the_error_of_the_samples_is_no_growth() {
        let (before, after) = ([sampled("main.f", 10, 500.0, 0.2)], [sampled("main.f", 10, 600.0, 0.2)]);
        assert_eq!(shown(&grown(&after, &before, 1.0, false)), []);
        let after = [sampled("main.f", 10, 1000.0, 0.2)];
        let grown = grown(&after, &before, 1.0, false);
        assert_eq!(shown(&grown), [("main.f", 10, 500.0)]);
        let error = grown[0].error.unwrap();
        assert!((error - 100f64.hypot(200.0) / 500.0).abs() < 1e-12, "{error}");
    }

    /// A leak in a short phase: few samples at each site, and the gate is sure of the whole.
    #[test]
    fn suspects_are_named_only_if_nothing_is_certain() {
        let (before, after) = ([sampled("main.f", 10, 500.0, 0.2)], [sampled("main.f", 10, 600.0, 0.2)]);
        let suspects = grown(&after, &before, 1.0, true);
        assert_eq!(shown(&suspects), [("main.f", 10, 100.0)]);
        assert!(suspects[0].error.unwrap() > 1.0 && suspects[0].share == 1.0);
        let certain = [sampled("main.f", 10, 600.0, 0.2), sampled("main.g", 5, 70.0, 0.1)];
        assert_eq!(shown(&grown(&certain, &before, 1.0, true)), [("main.g", 5, 70.0)]);
        assert_eq!(shown(&grown(&before, &before, 1.0, true)), []);
    }

    #[test]
    fn goroutines_are_told_apart_by_what_they_start() {
        let starts = |function: &str, amount| Site { starts: Some(function.into()), ..site("main.f", 10, amount) };
        let grown = grown(&[starts("main.a", 5.0), starts("main.b", 9.0)], &[starts("main.a", 5.0)], 1.0, false);
        assert_eq!(grown[0].starts.as_deref(), Some("main.b"));
    }
}
