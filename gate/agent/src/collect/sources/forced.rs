//! GC cycles on request: memgate makes the runtime collect at both ends of the measuring phase.
//!
//! The live heap is known only at the end of a mark phase, and a small service has few of them. So memgate asks for
//! cycles in two windows: at the end of the warm-up, and in the tail after the measuring phase. The measuring phase
//! between them has the service's own cycles only.
//!
//! To ask for a cycle, memgate sets the time of the last one back, once. `sysmon`, a thread of the runtime, then starts
//! one, and the runtime sets the time anew at the end of the mark phase. Nothing remains to be put back. The other way
//! is to shorten `forcegcperiod`, the runtime's two minutes. It was not taken: the period must be put back on every way
//! out, it does not tell whether a requested cycle has ended, and it has no effect before the first cycle of the
//! process.
//!
//! `sysmon` sleeps for up to a minute while the service is idle, and wakes at the next system call. If nothing happens,
//! memgate opens a connection to the service and closes it at once, so that the service accepts it.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use memgate_evidence::{Exactness, ForcedCollections, Signal, TimeSpan};
use memgate_goexe::{Fact, GcTrigger, Runtime};

use crate::collect::{
    collector::{Collector, Scene, Window},
    memory::ServiceMemory,
    worth::{Ending, Worth, note},
};

const SOURCE: &str = "requests for GC cycles: memstats.last_gc_nanotime, set back in the service's memory";
/// The least time from the end of a cycle to the next request, ns. The recorder ticks ten times a second, so memgate
/// asks twice a second if the cycles are short.
const PERIOD_NS: u64 = 450_000_000;
/// The time that a cycle needs if no earlier one took longer, ns. memgate does not ask later than this before the end of
/// a window.
const USUAL_NS: u64 = 200_000_000;
/// How long after a request memgate wakes the service, ns. Under load it collects within a few milliseconds.
const PATIENCE_NS: u64 = 150_000_000;
/// The longest wait for a connection that wakes the service.
const CONNECTING: Duration = Duration::from_millis(50);
/// A time of the last cycle that is always too long ago, as the runtime reads it: ns, a negative int64.
const LONG_AGO: u64 = (-(1_i64 << 62)).cast_unsigned();

/// Collects `forced_collections`, and makes the runtime collect.
pub(in crate::collect) struct ForcedCollector {
    layout: Fact<GcTrigger>,
    /// Why the runtime does not collect on request.
    refused: Option<String>,
    /// Which request was not answered.
    unanswered: Option<String>,
    data: ForcedCollections,
    open: Option<Open>,
}

/// The window that is open.
struct Open {
    start_ns: u64,
    end_ns: u64,
    service: Option<SocketAddr>,
    asked: u64,
    request: Option<Request>,
    /// The longest time from a request to the end of its cycle so far, ns.
    slowest_ns: u64,
}

/// A request that has not been answered.
struct Request {
    at_ns: u64,
    /// The time of the last cycle before it.
    before: u64,
    woken: bool,
}

/// Where the two words are in the process.
#[derive(Clone, Copy)]
struct Trigger<'memory> {
    memory: &'memory ServiceMemory,
    layout: GcTrigger,
}

impl Trigger<'_> {
    fn last(self) -> nix::Result<u64> {
        self.memory.global_word(self.layout.last_gc)
    }

    fn set_last(self, time: u64) -> nix::Result<()> {
        self.memory.write(self.memory.global(self.layout.last_gc), &time.to_le_bytes())
    }

    /// Whether GOGC is off.
    fn is_off(self) -> nix::Result<bool> {
        let percent = self.memory.global_int32(self.layout.gc_percent)?;
        Ok(u32::try_from(percent).is_ok_and(|percent| percent.cast_signed() < 0))
    }
}

impl ForcedCollector {
    /// Call it before the first instruction of the process, because it writes a word to see whether it may.
    pub(in crate::collect) fn new(runtime: &Runtime, memory: &ServiceMemory) -> Self {
        let layout = runtime.gc_trigger.clone();
        let refused = layout.as_ref().ok().and_then(|layout| {
            let trigger = Trigger { memory, layout: *layout };
            let written = trigger.last().and_then(|last| trigger.set_last(last));
            written.err().map(|error| format!("memgate cannot write the service's memory: {error}"))
        });
        let data = ForcedCollections { period_ns: PERIOD_NS, ..ForcedCollections::default() };
        Self { layout, refused, unanswered: None, data, open: None }
    }

    /// Whether the runtime collects on request, as far as memgate knows.
    pub(in crate::collect) fn is_possible(&mut self, scene: &Scene) -> bool {
        let is_off =
            self.layout.as_ref().ok().map(|layout| Trigger { memory: &scene.memory, layout: *layout }.is_off());
        match is_off {
            Some(Ok(true)) => note(&mut self.refused, GOGC_OFF),
            Some(Err(error)) => note(&mut self.refused, error.to_string()),
            Some(Ok(false)) | None => {}
        }
        self.layout.is_ok() && self.refused.is_none()
    }

    /// Opens a window.
    pub(in crate::collect) fn open(&mut self, window: Window, scene: &mut Scene) {
        let start_ns = scene.clock.now_ns();
        let length_ns = u64::try_from(window.length.as_nanos()).unwrap_or(u64::MAX);
        self.open = Some(Open {
            start_ns,
            end_ns: start_ns.saturating_add(length_ns),
            service: window.service,
            asked: 0,
            request: None,
            slowest_ns: USUAL_NS,
        });
        self.proceed(scene);
    }

    /// Closes the window, and withdraws a request that was not answered.
    pub(in crate::collect) fn close(&mut self, scene: &mut Scene) {
        self.proceed(scene);
        let Some(open) = self.open.take() else { return };
        let end_ns = scene.clock.now_ns();
        self.data.windows.push(TimeSpan { start_ns: open.start_ns, end_ns });
        self.data.asked.push(open.asked);
        let (Some(request), Ok(layout)) = (open.request, &self.layout) else { return };
        let trigger = Trigger { memory: &scene.memory, layout: *layout };
        // A service that has ended answers nothing, and its end is in the evidence.
        if scene.service.look() && trigger.last() == Ok(LONG_AGO) && trigger.set_last(request.before).is_ok() {
            let waited = Duration::from_nanos(end_ns.saturating_sub(request.at_ns));
            let reason = format!(
                "a GC cycle had not ended {waited:.1?} after memgate asked for it, at the end of a window; it may have ended in the next phase"
            );
            note(&mut self.unanswered, reason);
        }
    }

    /// Asks for a cycle if one is due, and looks for the end of the one that it asked for.
    fn proceed(&mut self, scene: &mut Scene) {
        let (Some(open), Ok(layout), None) = (&mut self.open, &self.layout, &self.refused) else { return };
        // In another program there may be anything at the address.
        if !scene.service.look() {
            return;
        }
        let trigger = Trigger { memory: &scene.memory, layout: *layout };
        match open.proceed(trigger, scene.clock.now_ns(), |at_ns| scene.clock.since_launch(at_ns)) {
            Ok(()) => {}
            Err(reason) => note(&mut self.refused, reason),
        }
    }

    pub(in crate::collect) fn into_signal(self, ending: &Ending) -> Signal<ForcedCollections> {
        let never = self.data.windows.is_empty().then(|| "the service ended before the first window".to_owned());
        let none = self.data.asked.iter().all(|asked| *asked == 0);
        let missing = self.layout.err().or_else(|| self.refused.clone().filter(|_| none)).or(never);
        let doubt = ending.doubt.clone().or(self.refused).or(self.unanswered);
        Worth { missing, doubt, lost: 0, otherwise: Exactness::Exact }.of(SOURCE, self.data)
    }
}

const GOGC_OFF: &str =
    "GOGC is off, so the runtime collects only at its memory limit, and memgate cannot make it collect";

impl Open {
    fn proceed(&mut self, trigger: Trigger<'_>, now_ns: u64, since_launch: impl Fn(u64) -> u64) -> Result<(), String> {
        let failed = |error: nix::Error| format!("memgate cannot make the runtime collect: {error}");
        let last = trigger.last().map_err(failed)?;
        if let Some(request) = &mut self.request {
            if last == LONG_AGO {
                if !request.woken && now_ns.saturating_sub(request.at_ns) >= PATIENCE_NS {
                    request.woken = true;
                    self.service.into_iter().for_each(wake);
                }
                return Ok(());
            }
            self.slowest_ns = self.slowest_ns.max(since_launch(last).saturating_sub(request.at_ns));
            self.request = None;
        }
        let last_ns = since_launch(last);
        // The times of the runtime and of memgate are those of one clock.
        if last_ns > now_ns.saturating_add(PERIOD_NS) {
            return Err(format!("the time of the last GC cycle is {last}, which is no time of this process"));
        }
        let is_due = last == 0 || now_ns.saturating_sub(last_ns) >= PERIOD_NS;
        if !is_due || now_ns.saturating_add(self.slowest_ns) > self.end_ns {
            return Ok(());
        }
        if trigger.is_off().map_err(failed)? {
            return Err(GOGC_OFF.to_owned());
        }
        trigger.set_last(LONG_AGO).map_err(failed)?;
        self.request = Some(Request { at_ns: now_ns, before: last, woken: false });
        self.asked += 1;
        Ok(())
    }
}

/// Makes the service accept a connection, which wakes its runtime. That memgate cannot connect shows in the request that
/// stays without an answer.
fn wake(service: SocketAddr) {
    let _ = TcpStream::connect_timeout(&service, CONNECTING);
}

impl Collector for ForcedCollector {
    fn tick(&mut self, scene: &mut Scene) {
        self.proceed(scene);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::collect::testing::{Fake, FakeMemory, nothing};

    const MS: u64 = 1_000_000;
    const LAYOUT: GcTrigger = GcTrigger { last_gc: 0x100, gc_percent: 0x108 };

    /// A runtime with this time of its last cycle, and this GOGC.
    fn runtime(last: u64, gogc: i32) -> (FakeMemory, ServiceMemory) {
        let fake = FakeMemory::default();
        put(&fake, 0, last, gogc);
        (fake.clone(), ServiceMemory::new(fake, 0))
    }

    fn put(fake: &FakeMemory, bias: u64, last: u64, gogc: i32) {
        fake.put(bias + LAYOUT.last_gc, &[&last.to_le_bytes()[..], &gogc.to_le_bytes()].concat());
    }

    fn window(end_ns: u64) -> Open {
        Open { start_ns: 0, end_ns, service: None, asked: 0, request: None, slowest_ns: USUAL_NS }
    }

    /// The launch was at 0 on the clock of the runtime.
    fn proceed(open: &mut Open, memory: &ServiceMemory, now_ns: u64) -> Result<(), String> {
        open.proceed(Trigger { memory, layout: LAYOUT }, now_ns, |at_ns| at_ns)
    }

    #[test]
    fn a_cycle_is_asked_for_once_the_last_one_is_long_enough_ago() {
        let (fake, memory) = runtime(1000 * MS, 100);
        let (mut open, last) = (window(9000 * MS), || memory.word(LAYOUT.last_gc).unwrap());
        proceed(&mut open, &memory, 1400 * MS).unwrap();
        assert_eq!((open.asked, last()), (0, 1000 * MS));
        proceed(&mut open, &memory, 1500 * MS).unwrap();
        assert_eq!((open.asked, last()), (1, LONG_AGO));
        let now: i64 = 1 << 50;
        assert!(now - LONG_AGO.cast_signed() > 120_000_000_000, "as the runtime compares it");
        proceed(&mut open, &memory, 1600 * MS).unwrap();
        assert_eq!(open.asked, 1, "the cycle has not ended");
        put(&fake, 0, 1650 * MS, 100);
        proceed(&mut open, &memory, 1700 * MS).unwrap();
        proceed(&mut open, &memory, 2000 * MS).unwrap();
        assert_eq!((open.asked, last()), (1, 1650 * MS));
        proceed(&mut open, &memory, 2100 * MS).unwrap();
        assert_eq!(open.asked, 2);
    }

    #[test]
    fn the_first_cycle_of_a_process_can_be_asked_for() {
        let (_fake, memory) = runtime(0, 100);
        let mut open = window(9000 * MS);
        proceed(&mut open, &memory, 5000 * MS).unwrap();
        assert_eq!((open.asked, memory.word(LAYOUT.last_gc)), (1, Ok(LONG_AGO)));
    }

    #[test]
    fn no_cycle_is_asked_for_that_may_end_after_the_window() {
        let (fake, memory) = runtime(0, 100);
        let mut open = window(4000 * MS);
        proceed(&mut open, &memory, 3801 * MS).unwrap();
        assert_eq!(open.asked, 0);
        proceed(&mut open, &memory, 1000 * MS).unwrap();
        put(&fake, 0, 2500 * MS, 100);
        proceed(&mut open, &memory, 2550 * MS).unwrap();
        proceed(&mut open, &memory, 3000 * MS).unwrap();
        assert_eq!(open.asked, 1, "the first one took 1.5 s");
    }

    #[test]
    fn where_gogc_is_off_or_the_time_is_none_nothing_is_written() {
        for (last, gogc, reason) in [(1000 * MS, -1, "GOGC is off"), (0xc000_0000_0000_0000, 100, "no time of this")] {
            let (_fake, memory) = runtime(last, gogc);
            let error = proceed(&mut window(9000 * MS), &memory, 5000 * MS).unwrap_err();
            assert!(error.contains(reason), "{error}");
            assert_eq!(memory.word(LAYOUT.last_gc), Ok(last));
        }
    }

    #[test]
    fn an_idle_service_is_woken_once_by_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (_fake, memory) = runtime(0, 100);
        let mut open = Open { service: Some(listener.local_addr().unwrap()), ..window(9000 * MS) };
        proceed(&mut open, &memory, 1000 * MS).unwrap();
        proceed(&mut open, &memory, 1100 * MS).unwrap();
        assert!(listener.accept().is_err(), "it may still collect by itself");
        proceed(&mut open, &memory, 1200 * MS).unwrap();
        proceed(&mut open, &memory, 1300 * MS).unwrap();
        assert!(listener.accept().is_ok());
        assert!(listener.accept().is_err());
    }

    /// A collector of a runtime with this time and GOGC.
    fn collector(fake: &Fake, last: u64, gogc: i32) -> ForcedCollector {
        put(&fake.memory, fake.scene.memory.bias(), last, gogc);
        ForcedCollector::new(&memgate_goexe::Runtime { gc_trigger: Ok(LAYOUT), ..nothing() }, &fake.scene.memory)
    }

    const WINDOW: Window = Window { length: Duration::from_secs(3600), service: None };

    fn reason(signal: &Signal<ForcedCollections>) -> (bool, &str) {
        match &signal.exactness {
            Exactness::Inexact { reason } => (false, reason),
            Exactness::Missing { reason } => (true, reason),
            Exactness::Exact | Exactness::Sampled | Exactness::Bucketed => (false, ""),
        }
    }

    #[test]
    fn an_answered_request_is_in_the_evidence() {
        let mut fake = Fake::new();
        let mut collector = collector(&fake, 0, 100);
        assert!(collector.is_possible(&fake.scene));
        collector.open(WINDOW, &mut fake.scene);
        let at = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
        let now_ns = u64::try_from(Duration::from(at).as_nanos()).unwrap();
        put(&fake.memory, fake.scene.memory.bias(), now_ns, 100);
        collector.tick(&mut fake.scene);
        collector.close(&mut fake.scene);
        let signal = collector.into_signal(&Ending::default());
        assert_eq!((signal.exactness, signal.data.asked, signal.data.windows.len()), (Exactness::Exact, vec![1], 1));
    }

    #[test]
    fn a_request_without_an_answer_is_withdrawn_and_a_doubt() {
        let mut fake = Fake::new();
        let mut collector = collector(&fake, 0, 100);
        collector.open(WINDOW, &mut fake.scene);
        assert_eq!(fake.scene.memory.global_word(LAYOUT.last_gc), Ok(LONG_AGO));
        collector.close(&mut fake.scene);
        assert_eq!(fake.scene.memory.global_word(LAYOUT.last_gc), Ok(0));
        collector.tick(&mut fake.scene);
        assert_eq!(fake.scene.memory.global_word(LAYOUT.last_gc), Ok(0), "nothing is asked for outside of a window");
        let signal = collector.into_signal(&Ending::default());
        assert!(matches!(reason(&signal), (false, reason) if reason.starts_with("a GC cycle had not ended")));
    }

    #[test]
    fn an_impossible_request_has_a_reason() {
        let fake = Fake::new();
        let mut off = collector(&fake, 7, -1);
        assert!(!off.is_possible(&fake.scene));
        assert!(matches!(reason(&off.into_signal(&Ending::default())), (true, reason) if reason == GOGC_OFF));
        let mut unknown = ForcedCollector::new(&nothing(), &fake.scene.memory);
        assert!(!unknown.is_possible(&fake.scene));
        let signal = unknown.into_signal(&Ending::default());
        assert!(matches!(reason(&signal), (true, reason) if reason.contains("does not know")));
        let unreadable = GcTrigger { last_gc: 0x9000, gc_percent: LAYOUT.gc_percent };
        let runtime = memgate_goexe::Runtime { gc_trigger: Ok(unreadable), ..nothing() };
        let mut refused = ForcedCollector::new(&runtime, &fake.scene.memory);
        assert!(!refused.is_possible(&fake.scene));
        let signal = refused.into_signal(&Ending::default());
        assert!(matches!(reason(&signal), (true, reason) if reason.contains("cannot write")));
    }

    #[test]
    fn a_service_that_ended_before_the_windows_has_none() {
        let fake = Fake::new();
        let signal = collector(&fake, 7, 100).into_signal(&Ending::default());
        assert!(matches!(reason(&signal), (true, reason) if reason.contains("ended before")));
    }

    #[test]
    fn nothing_is_written_to_another_program() {
        let mut fake = Fake::new();
        let mut collector = collector(&fake, 0, 100);
        fake.proc.replace_executable();
        collector.open(WINDOW, &mut fake.scene);
        collector.close(&mut fake.scene);
        assert_eq!(fake.scene.memory.global_word(LAYOUT.last_gc), Ok(0));
    }
}
