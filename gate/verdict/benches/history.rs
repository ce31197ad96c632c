//! How well a history's marks find known steps, and how many there are without one. `cargo xtask bench history` runs
//! this. The seed is fixed, so the tables are always the same.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use memgate_testing::Random;
use memgate_verdict::history::{change_points, jumps};

/// The number of commits in a series.
const COMMITS: usize = 200;

/// The number of series for each row.
const SERIES: usize = 1000;

/// A mark that is at most this many commits away from a step stands for it.
const NEAR: usize = 5;

/// The size of a step, in standard deviations of the noise.
const STEPS: [f64; 7] = [1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0];

/// Noise of standard deviation 1 in the ordinary case.
type Noise = (&'static str, fn(&mut Random, &mut f64) -> f64);

const NOISES: [Noise; 3] = [
    ("normal", |random, _| random.normal()),
    ("with 5 % outliers of five times the size", |random, _| {
        let size = if random.uniform() < 0.05 { 5.0 } else { 1.0 };
        size * random.normal()
    }),
    // As of a machine that is slow on some days.
    ("that lasts (autocorrelation 0.3)", |random, last| {
        *last = 0.3 * *last + (1.0 - 0.3_f64.powi(2)).sqrt() * random.normal();
        *last
    }),
];

fn main() {
    let mut random = Random(42);
    println!("| noise | step | found | at the commit | at most 2 away | other marks in 1,000 commits |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (name, noise) in NOISES {
        for step in STEPS {
            let found = Found::of(step, noise, &mut random);
            println!("| {name} | {step} | {} |", found.cells());
        }
    }
    println!("\n| noise without a step | series with a mark | marks in 1,000 commits | jumps in 1,000 commits |");
    println!("| --- | --- | --- | --- |");
    for (name, noise) in NOISES {
        let (mut marked, mut marks, mut sudden) = (0, 0, 0);
        for _ in 0..SERIES {
            let figures = figures(&[0.0; COMMITS], noise, &mut random);
            let found = change_points(&figures).len();
            marked += usize::from(found > 0);
            marks += found;
            sudden += jumps(&figures).len();
        }
        let thousands = (SERIES * COMMITS) as f64 / 1000.0;
        let [marks, sudden] = [marks, sudden].map(|count| count as f64 / thousands);
        println!("| {name} | {} | {marks:.2} | {sudden:.2} |", percent(marked, SERIES));
    }
    println!("\n| step | a jump at once | marked after commits, half | nine of ten | never in 50 |");
    println!("| --- | --- | --- | --- | --- |");
    for step in STEPS {
        println!("| {step} | {} |", noticed(step, &mut random));
    }
    println!("\n| a step that is repaired after | of size 3 | 5 | 10 |");
    println!("| --- | --- | --- | --- |");
    for length in [4, 6, 8, 12, 20] {
        let cells = [3.0, 5.0, 10.0].map(|step| repaired(length, step, &mut random));
        println!("| {length} commits | {} |", cells.join(" | "));
    }
}

/// A series with these levels.
fn figures(levels: &[f64], noise: fn(&mut Random, &mut f64) -> f64, random: &mut Random) -> Vec<f64> {
    let mut last = random.normal();
    levels.iter().map(|level| 100.0 + level + noise(random, &mut last)).collect()
}

/// What became of the steps.
#[derive(Default)]
struct Found {
    steps: usize,
    found: usize,
    exact: usize,
    close: usize,
    others: usize,
}

impl Found {
    /// Three steps in each series, up or down, at least 25 commits apart.
    fn of(step: f64, noise: fn(&mut Random, &mut f64) -> f64, random: &mut Random) -> Self {
        let mut found = Self::default();
        for _ in 0..SERIES {
            let mut places: [usize; 3];
            loop {
                places = [(); 3].map(|()| usize::try_from(random.below(150)).expect("a small number") + 25);
                places.sort_unstable();
                if places[1] - places[0] >= 25 && places[2] - places[1] >= 25 {
                    break;
                }
            }
            let ups = places.map(|_| if random.below(2) == 0 { step } else { -step });
            let level = |commit: usize| {
                let passed = places.iter().zip(ups).filter(|(place, _)| **place <= commit);
                passed.map(|(_, up)| up).sum::<f64>()
            };
            let levels: Vec<f64> = (0..COMMITS).map(level).collect();
            found.count(&places, &figures(&levels, noise, random));
        }
        found
    }

    fn count(&mut self, places: &[usize], figures: &[f64]) {
        let marks: Vec<usize> = change_points(figures).iter().map(|mark| mark.at).collect();
        for place in places {
            let distance = marks.iter().map(|mark| mark.abs_diff(*place)).min().unwrap_or(usize::MAX);
            self.steps += 1;
            self.found += usize::from(distance <= NEAR);
            self.close += usize::from(distance <= 2);
            self.exact += usize::from(distance == 0);
        }
        let is_other = |mark: &&usize| places.iter().all(|place| place.abs_diff(**mark) > NEAR);
        self.others += marks.iter().filter(is_other).count();
    }

    fn cells(&self) -> String {
        let of = |count| percent(count, self.steps);
        let others = self.others as f64 / ((SERIES * COMMITS) as f64 / 1000.0);
        format!("{} | {} | {} | {others:.2}", of(self.found), of(self.exact), of(self.close))
    }
}

/// After how many commits of the new level a step at the 101st commit has a mark.
fn noticed(step: f64, random: &mut Random) -> String {
    const BEFORE: usize = 100;
    let levels: Vec<f64> = (0..BEFORE + 50).map(|commit| if commit < BEFORE { 0.0 } else { step }).collect();
    let mut sudden = 0;
    let mut after = Vec::new();
    for _ in 0..SERIES {
        let figures = figures(&levels, NOISES[0].1, random);
        sudden += usize::from(jumps(&figures).iter().any(|jump| jump.at == BEFORE));
        let is_marked = |commits: &usize| {
            change_points(&figures[..BEFORE + commits]).iter().any(|mark| mark.at.abs_diff(BEFORE) <= NEAR)
        };
        after.push((1..=50).find(is_marked).unwrap_or(usize::MAX));
    }
    after.sort_unstable();
    let never = after.iter().filter(|commits| **commits == usize::MAX).count();
    let of = |share: usize| match after[SERIES * share / 10] {
        usize::MAX => "-".to_owned(),
        commits => commits.to_string(),
    };
    format!("{} | {} | {} | {}", percent(sudden, SERIES), of(5), of(9), percent(never, SERIES))
}

/// How often both ends of a step up are marked that is repaired after `length` commits.
fn repaired(length: usize, step: f64, random: &mut Random) -> String {
    let both = (0..SERIES).filter(|_| {
        let start = usize::try_from(random.below(100)).expect("a small number") + 40;
        let is_high = |commit: &usize| (start..start + length).contains(commit);
        let levels: Vec<f64> = (0..COMMITS).map(|commit| if is_high(&commit) { step } else { 0.0 }).collect();
        let marks = change_points(&figures(&levels, NOISES[0].1, random));
        [start, start + length].iter().all(|place| marks.iter().any(|mark| mark.at.abs_diff(*place) <= 1))
    });
    percent(both.count(), SERIES)
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole as f64)
}
