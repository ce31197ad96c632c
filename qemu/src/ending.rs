//! Classifies the end of a guest that has not finished its work, from what was seen of it. Pure.

use std::time::{Duration, Instant};

use crate::channel::{AgentEnd, FromInit};

/// The end of a guest that had not finished its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The agent exited with this code.
    Exited(i32),
    /// This signal ended the agent.
    Signalled(String),
    /// The kernel killed the agent because memory ran out.
    OutOfMemory,
    /// The kernel panicked. The line gives the reason.
    Panicked(String),
    /// The guest or the agent sent nothing for this long.
    Hung {
        /// Which of them: `guest` or `agent`.
        who: &'static str,
        /// How long.
        silent: Duration,
    },
    /// QEMU or the channel is gone, for this reason.
    Lost(String),
    /// This machine cannot store its console, with the system's error.
    Unkept(String),
    /// It did not boot, with the reason or the time that it took.
    NeverBooted(String),
}

impl Ending {
    /// A short name for tests and tables.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Exited(_) => "exited",
            Self::Signalled(_) => "signalled",
            Self::OutOfMemory => "out of memory",
            Self::Panicked(_) => "panicked",
            Self::Hung { .. } => "hung",
            Self::Lost(_) | Self::Unkept(_) => "lost",
            Self::NeverBooted(_) => "never booted",
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.name();
        match self {
            Self::Exited(code) => {
                write!(f, "{name}: the agent exited with code {code} before it had handed over evidence")
            }
            Self::Signalled(signal) => write!(f, "{name}: the agent was ended by {signal}"),
            Self::OutOfMemory => write!(f, "{name}: the guest's kernel killed the agent because memory ran out"),
            Self::Panicked(line) => write!(f, "{name}: {line}"),
            Self::Hung { who, silent } => write!(f, "{name}: the {who} has said nothing for {} s", silent.as_secs()),
            Self::Lost(how) | Self::NeverBooted(how) => write!(f, "{name}: {how}"),
            Self::Unkept(error) => write!(f, "{name}: its console cannot be kept: {error}"),
        }
    }
}

/// The limits of the waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From the start of QEMU until the agent is ready.
    pub boot: Duration,
    /// Between two signs of life. Each is sent once a second.
    pub silence: Duration,
}

impl Default for Patience {
    /// A boot takes 3 to 10 s on two idle cores under TCG. A machine whose cores are shared may take many times as
    /// long.
    fn default() -> Self {
        Self { boot: Duration::from_secs(120), silence: Duration::from_secs(15) }
    }
}

/// After the channel has closed or the kernel has panicked: what explains it may still be on its way.
const AFTERMATH: Duration = Duration::from_millis(500);

/// A QEMU that has closed the channel is ending, and how it ends says more. It takes the kernel milliseconds, but of a processor that
/// others may have. A guest whose agent has ended switches itself off, and so ends its streams.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(5);

/// Init and agent each send something every second. If init has been silent for this long, memgate does not blame the
/// agent alone.
const PULSE: Duration = Duration::from_secs(3);

/// What is known about one guest.
#[derive(Debug)]
pub(crate) struct Watch {
    patience: Patience,
    started: Instant,
    /// When the guest's first process last sent something; `None` before it does.
    init: Option<Instant>,
    /// When the agent last sent something; `None` before it is ready.
    agent: Option<Instant>,
    /// Whether the agent has begun. After that it sends something every second.
    begun: bool,
    panic: Option<(String, Instant)>,
    closed: Option<(String, Instant)>,
    /// Whether QEMU is about to end, but has not yet.
    qemu_ends: bool,
    agent_ended: Option<Ending>,
    broken: Option<String>,
    unkept: Option<String>,
}

impl Watch {
    pub(crate) const fn new(patience: Patience, now: Instant) -> Self {
        Self {
            patience,
            started: now,
            init: None,
            agent: None,
            begun: false,
            panic: None,
            closed: None,
            qemu_ends: false,
            agent_ended: None,
            broken: None,
            unkept: None,
        }
    }

    /// The guest's first process sent something.
    pub(crate) fn init_spoke(&mut self, message: FromInit, now: Instant) {
        self.init = Some(now);
        match message {
            FromInit::Up | FromInit::Heartbeat => {}
            FromInit::Broken(why) => self.broken = Some(why),
            FromInit::AgentEnded { end: AgentEnd::Exited(code), .. } => self.agent_ended = Some(Ending::Exited(code)),
            FromInit::AgentEnded { end: AgentEnd::Signalled(signal), oom_kills } => {
                let killed = signal == "SIGKILL" && oom_kills > 0;
                self.agent_ended = Some(if killed { Ending::OutOfMemory } else { Ending::Signalled(signal) });
            }
        }
    }

    /// The agent sent something.
    pub(crate) const fn agent_spoke(&mut self, now: Instant) {
        self.agent = Some(now);
    }

    /// From now on the agent sends something every second.
    pub(crate) const fn agent_begins(&mut self, now: Instant) {
        self.begun = true;
        self.agent = Some(now);
    }

    /// The kernel's panic appeared on the console.
    pub(crate) fn panicked(&mut self, line: String, now: Instant) {
        self.panic.get_or_insert((line, now));
    }

    /// The channel holds what it should not, or nothing can be said through it.
    pub(crate) fn closed(&mut self, how: String, now: Instant) {
        self.closed.get_or_insert((how, now));
    }

    /// QEMU has closed the channel, which it does when it ends.
    pub(crate) fn closed_by_qemu(&mut self, how: String, now: Instant) {
        if self.closed.is_none() {
            self.closed = Some((how, now));
            self.qemu_ends = true;
        }
    }

    /// The console cannot be written to its file.
    pub(crate) fn console_unkept(&mut self, error: String) {
        self.unkept = Some(error);
    }

    /// QEMU ended. This also closes the channel, but explains more.
    pub(crate) fn qemu_ended(&mut self, how: String, now: Instant) {
        let (_, at) = self.closed.take().unwrap_or_else(|| (String::new(), now));
        self.closed = Some((how, at));
        self.qemu_ends = false;
    }

    /// Whether the guest's first process has said that the agent ended.
    pub(crate) const fn agent_has_ended(&self) -> bool {
        self.agent_ended.is_some()
    }

    /// How the guest ended, if it did.
    pub(crate) fn ending(&self, now: Instant) -> Option<Ending> {
        let past = |since: Instant, wait: Duration| now.saturating_duration_since(since) >= wait;
        if let Some((line, at)) = &self.panic {
            return (self.closed.is_some() || past(*at, AFTERMATH)).then(|| Ending::Panicked(line.clone()));
        }
        if let Some(error) = &self.unkept {
            return Some(Ending::Unkept(error.clone()));
        }
        if let Some(why) = &self.broken {
            return Some(Ending::NeverBooted(why.clone()));
        }
        if let Some(ending) = &self.agent_ended {
            return Some(ending.clone());
        }
        if let Some((how, at)) = &self.closed {
            let ending = if self.agent.is_some() { Ending::Lost } else { Ending::NeverBooted };
            return past(*at, self.grace()).then(|| ending(how.clone()));
        }
        if self.agent.is_none() {
            let why = || format!("it was not ready after {} s", self.patience.boot.as_secs_f64());
            return past(self.started, self.patience.boot).then(|| Ending::NeverBooted(why()));
        }
        let silent = |who, last: Option<Instant>| {
            let last = last.filter(|last| past(*last, self.patience.silence))?;
            Some(Ending::Hung { who, silent: now.saturating_duration_since(last) })
        };
        let guest_lives = !self.init.is_some_and(|init| past(init, PULSE));
        silent("guest", self.init).or_else(|| silent("agent", self.agent.filter(|_| self.begun && guest_lives)))
    }

    /// How long after the channel has closed it is the reason.
    const fn grace(&self) -> Duration {
        if self.qemu_ends { LAST_WORDS } else { AFTERMATH }
    }

    /// When to look next, if nothing is seen before.
    pub(crate) fn deadline(&self) -> Instant {
        let panicked = self.panic.as_ref().map(|(_, at)| *at + AFTERMATH);
        let closed = self.closed.as_ref().map(|(_, at)| *at + self.grace());
        let aftermath = panicked.into_iter().chain(closed).min();
        let boot = self.agent.is_none().then(|| self.started + self.patience.boot);
        let silent = |last: Instant| last + self.patience.silence;
        let agent = self.agent.filter(|_| self.begun).map(silent);
        // If the first process is silent by then too, its own silence counts. If it sends something before, that is
        // seen.
        let agent = agent.filter(|at| self.init.is_none_or(|init| *at < init + PULSE));
        let silence = self.init.map(silent).into_iter().chain(agent).min();
        let far = self.started + self.patience.boot + self.patience.silence;
        aftermath.into_iter().chain(boot).chain(silence).min().unwrap_or(far)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { boot: Duration::from_secs(60), silence: Duration::from_secs(10) };

    /// A guest that booted and whose agent began at 3 s.
    fn working(start: Instant) -> Watch {
        let mut watch = Watch::new(PATIENCE, start);
        let at = start + Duration::from_secs(3);
        watch.init_spoke(FromInit::Up, at);
        watch.agent_spoke(at);
        watch.agent_begins(at);
        watch
    }

    fn name(watch: &Watch, start: Instant, seconds: f64) -> Option<&'static str> {
        watch.ending(start + Duration::from_secs_f64(seconds)).map(|ending| ending.name())
    }

    #[test]
    fn each_end_has_its_name() {
        let start = Instant::now();
        let later = start + Duration::from_secs(5);
        let ended = |end| FromInit::AgentEnded { end, oom_kills: 0 };
        type Seen = Box<dyn Fn(&mut Watch)>;
        let cases: [(&str, Seen); 7] = [
            ("exited", Box::new(move |watch| watch.init_spoke(ended(AgentEnd::Exited(1)), later))),
            ("signalled", Box::new(move |watch| watch.init_spoke(ended(AgentEnd::Signalled("SIGKILL".into())), later))),
            ("panicked", Box::new(move |watch| watch.panicked("Kernel panic - not syncing: sysrq".into(), later))),
            ("lost", Box::new(move |watch| watch.closed("its channel is corrupted".into(), later))),
            ("lost", Box::new(|watch| watch.console_unkept("No space left on device".into()))),
            ("never booted", Box::new(move |watch| watch.init_spoke(FromInit::Broken("no /dev".into()), later))),
            (
                "out of memory",
                Box::new(move |watch| {
                    let end = AgentEnd::Signalled("SIGKILL".into());
                    watch.init_spoke(FromInit::AgentEnded { end, oom_kills: 1 }, later);
                }),
            ),
        ];
        for (expected, see) in cases {
            let mut watch = working(start);
            assert_eq!(name(&watch, start, 5.0), None, "{expected}");
            see(&mut watch);
            assert_eq!(name(&watch, start, 5.6), Some(expected));
        }
    }

    #[test]
    fn a_guest_that_never_speaks_never_booted() {
        let start = Instant::now();
        let mut watch = Watch::new(PATIENCE, start);
        assert_eq!(watch.deadline(), start + PATIENCE.boot);
        assert_eq!(name(&watch, start, 59.0), None);
        assert_eq!(name(&watch, start, 60.0), Some("never booted"));
        watch.closed("QEMU exited with code 1".into(), start);
        assert_eq!(name(&watch, start, 1.0), Some("never booted"), "it is known before the deadline");
    }

    #[test]
    fn silence_is_a_hang_of_the_guest_or_of_the_agent() {
        let start = Instant::now();
        let mut watch = working(start);
        assert_eq!(watch.deadline(), start + Duration::from_secs(13));
        assert_eq!(name(&watch, start, 12.9), None);
        let hung = |watch: &Watch, seconds| match watch.ending(start + Duration::from_secs(seconds)) {
            Some(Ending::Hung { who, .. }) => who,
            other => panic!("{other:?}"),
        };
        assert_eq!(hung(&watch, 13), "guest");
        watch.init_spoke(FromInit::Heartbeat, start + Duration::from_secs(12));
        assert_eq!(hung(&watch, 13), "agent");
        watch.agent_spoke(start + Duration::from_secs(12));
        assert_eq!(name(&watch, start, 13.0), None);
    }

    #[test]
    fn a_guest_that_stands_still_is_no_agent_that_does() {
        let start = Instant::now();
        let mut watch = working(start);
        let last = start + Duration::from_millis(3_400);
        watch.init_spoke(FromInit::Heartbeat, last);
        assert_eq!(watch.deadline(), last + PATIENCE.silence);
        assert_eq!(name(&watch, start, 13.0), None, "the agent has been silent for longer, but the guest is too");
        assert!(matches!(watch.ending(last + PATIENCE.silence), Some(Ending::Hung { who: "guest", .. })));
        // A guest is alive while its first process sends messages.
        let last = start + Duration::from_secs(12);
        watch.init_spoke(FromInit::Heartbeat, last);
        assert_eq!(watch.deadline(), start + Duration::from_secs(13));
        assert!(matches!(watch.ending(start + Duration::from_secs(13)), Some(Ending::Hung { who: "agent", .. })));
    }

    #[test]
    fn the_end_of_qemu_says_more_than_that_of_its_channel() {
        let start = Instant::now();
        let mut watch = working(start);
        let at = start + Duration::from_secs(4);
        watch.closed_by_qemu("its channel is closed".into(), at);
        assert_eq!(watch.deadline(), at + LAST_WORDS);
        // The machine is busy: QEMU's end takes long, and nothing says more than the channel.
        let late = at + Duration::from_secs(4);
        assert_eq!(watch.ending(late), None);
        assert_eq!(watch.ending(at + LAST_WORDS), Some(Ending::Lost("its channel is closed".into())));
        watch.qemu_ended("QEMU was ended by SIGKILL".into(), late);
        assert_eq!(watch.ending(late), Some(Ending::Lost("QEMU was ended by SIGKILL".into())));
    }

    #[test]
    fn a_corrupted_channel_does_not_wait_for_the_end_of_qemu() {
        let start = Instant::now();
        let mut watch = working(start);
        let at = start + Duration::from_secs(4);
        watch.closed("its channel is corrupted".into(), at);
        watch.closed_by_qemu("its channel is closed".into(), at);
        assert_eq!(watch.deadline(), at + AFTERMATH);
        assert_eq!(watch.ending(at + AFTERMATH), Some(Ending::Lost("its channel is corrupted".into())));
    }

    #[test]
    fn what_explains_a_closed_channel_is_waited_for() {
        let start = Instant::now();
        let mut watch = working(start);
        let at = start + Duration::from_secs(4);
        watch.closed("QEMU exited with code 0".into(), at);
        assert_eq!(name(&watch, start, 4.1), None);
        watch.panicked("Kernel panic - not syncing: Attempted to kill init!".into(), at);
        assert_eq!(name(&watch, start, 4.1), Some("panicked"));
    }
}
