//! Sends questions to a running service: each has a limit, all together have one, and a service that has ended is asked
//! no more.

use std::{fmt, time::Duration};

use memgate_agent::{
    load::RequestFailure,
    trial::{self, Answer},
};
use tokio::time::Instant;

/// The most time for one answer.
pub(super) const ANSWER: Duration = Duration::from_secs(2);

/// Why there is no answer to a question, and none to those after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unasked {
    /// memgate cannot request the path. Others can be asked.
    Unfit,
    /// The time for all questions is over.
    Time,
    /// The service ended after a GET of this path.
    Ended(String),
}

impl fmt::Display for Unasked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfit => f.write_str("not asked: memgate cannot request this path"),
            Self::Time => f.write_str("not asked: the answers before took too long"),
            Self::Ended(path) => write!(f, "not asked: the service ended after GET {path}"),
        }
    }
}

/// Asks a service, as long as it runs and there is time.
pub(super) struct Asker<A> {
    /// Tells whether the service still runs.
    alive: A,
    until: Instant,
    /// Why nothing is asked any more.
    over: Option<Unasked>,
}

impl<A: FnMut() -> bool> Asker<A> {
    /// Asks for at most `length` from now on.
    pub(super) fn new(alive: A, length: Duration) -> Self {
        Self { alive, until: Instant::now() + length, over: None }
    }

    /// The answer to a GET of the path at the server `base`, such as `http://127.0.0.1:8080`.
    ///
    /// # Errors
    /// When the path is not asked, or the service has ended after it.
    pub(super) async fn get(&mut self, base: &str, path: &str) -> Result<Answer, Unasked> {
        if let Some(over) = &self.over {
            return Err(over.clone());
        }
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.ends(Unasked::Time));
        }
        let Ok(answer) = trial::get(&format!("{base}{path}"), ANSWER.min(left)).await else {
            return Err(Unasked::Unfit);
        };
        if !(self.alive)() {
            return Err(self.ends(Unasked::Ended(path.to_owned())));
        }
        // An answer that the end of the time cuts off is not known.
        if answer == Err(RequestFailure::Timeout) && left < ANSWER {
            return Err(self.ends(Unasked::Time));
        }
        Ok(answer)
    }

    /// Whether the service still runs.
    pub(super) fn is_alive(&mut self) -> bool {
        (self.alive)()
    }

    /// Why nothing is asked any more, if nothing is.
    pub(super) const fn over(&self) -> Option<&Unasked> {
        self.over.as_ref()
    }

    fn ends(&mut self, why: Unasked) -> Unasked {
        self.over.insert(why).clone()
    }
}
