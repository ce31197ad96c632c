//! Fakes of what the collectors read: a process's memory, its entry in `/proc`, and the BPF programs.

use std::{
    collections::HashMap,
    fs::{self, File},
    ops::Range,
    os::unix::fs::{FileExt as _, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use memgate_ebpf::{Fault, GO_STACK, KINDS, REGISTERS, Record, STACK};
use memgate_evidence::{platform::Platform, tier::Tier};
use memgate_goexe::{
    FunctionTable, Runtime,
    arch::ProbeCost,
    probes::{Probe, ProbedSignal, SignalPlan},
};

use super::{
    code::Symboliser,
    collector::{Mapped, Scene},
    memory::{RemoteMemory, ServiceMemory},
    programs::{Attached, Counts, Links, ProgramError, Programs},
    service::ServiceProcess,
    sources::Counters,
    unwind,
};
use crate::{cgroup::CgroupFiles, clock::Clock};

/// The process id of the fake service.
pub(super) const PID: i32 = 4242;

/// A scene over fakes, and the fakes.
pub(super) struct Fake {
    pub(super) scene: Scene,
    pub(super) memory: FakeMemory,
    pub(super) proc: FakeProc,
    pub(super) programs: FakePrograms,
}

impl Fake {
    /// A service whose executable is loaded 1 MiB above the addresses of its file.
    pub(super) fn new() -> Self {
        Self::loaded_at(1 << 20)
    }

    /// A service whose addresses are those of its file.
    pub(super) fn without_bias() -> Self {
        Self::loaded_at(0)
    }

    fn loaded_at(bias: u64) -> Self {
        let (memory, proc, programs) = (FakeMemory::default(), FakeProc::new(), FakePrograms::default());
        let scene = scene(&memory, &proc, &programs, bias);
        Self { scene, memory, proc, programs }
    }

    /// Another scene over the same fakes.
    pub(super) fn another_scene(&self) -> Scene {
        scene(&self.memory, &self.proc, &self.programs, self.scene.memory.bias())
    }
}

fn scene(memory: &FakeMemory, proc: &FakeProc, programs: &FakePrograms, bias: u64) -> Scene {
    Scene {
        clock: Clock::start().unwrap(),
        service: proc.service(),
        cgroup: CgroupFiles::default(),
        memory: ServiceMemory::new(memory.clone(), bias),
        programs: Some(Box::new(programs.clone())),
        functions: Err("the fake has no functions".to_owned()),
        code: Symboliser::default(),
        mapped: Mapped::default(),
        totals: None,
        new_cycles: None,
    }
}

/// The memory of a process. Clones share it.
#[derive(Clone, Default)]
pub(super) struct FakeMemory(Arc<Mutex<Bytes>>);

#[derive(Default)]
struct Bytes {
    mapped: HashMap<u64, u8>,
    ended: bool,
    /// The word at this address, and how much it grows at each reading.
    growing: Option<(u64, u64)>,
}

impl FakeMemory {
    /// Maps these bytes at the address.
    pub(super) fn put(&self, address: u64, bytes: &[u8]) {
        self.0.lock().unwrap().put(address, bytes);
    }

    /// Makes the word at the address grow by `step` at each reading.
    pub(super) fn grow(&self, address: u64, step: u64) {
        self.0.lock().unwrap().growing = Some((address, step));
    }

    /// Ends the process.
    pub(super) fn end(&self) {
        self.0.lock().unwrap().ended = true;
    }
}

impl Bytes {
    fn put(&mut self, address: u64, bytes: &[u8]) {
        self.mapped.extend((address..).zip(bytes.iter().copied()));
    }

    fn read(&self, address: u64, length: usize) -> nix::Result<Vec<u8>> {
        let bytes = (0..length as u64).map(|index| self.mapped.get(&address.wrapping_add(index)).copied());
        bytes.collect::<Option<_>>().ok_or(nix::Error::EFAULT)
    }
}

impl RemoteMemory for FakeMemory {
    fn read(&self, addresses: &[u64], length: usize) -> nix::Result<Vec<u8>> {
        let mut bytes = self.0.lock().unwrap();
        if bytes.ended {
            return Err(nix::Error::ESRCH);
        }
        let read = addresses.iter().map(|address| bytes.read(*address, length)).collect::<nix::Result<Vec<_>>>()?;
        if let Some((address, step)) = bytes.growing.filter(|(address, _)| addresses.contains(address)) {
            let word = u64::from_le_bytes(bytes.read(address, 8)?.try_into().unwrap());
            bytes.put(address, &(word + step).to_le_bytes());
        }
        Ok(read.concat())
    }

    fn write(&self, address: u64, written: &[u8]) -> nix::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        bytes.read(address, written.len())?;
        bytes.put(address, written);
        Ok(())
    }
}

/// Entries in `/proc` for the fake service and other processes: a directory with files like the kernel's.
pub(super) struct FakeProc {
    directory: tempfile::TempDir,
    stat: Mutex<FakeStat>,
}

/// The fields of `/proc/PID/stat` that a test may change.
#[derive(Default)]
pub(super) struct FakeStat {
    pub(super) minflt: u64,
    pub(super) cminflt: u64,
    pub(super) majflt: u64,
    pub(super) starttime: u64,
    pub(super) startstack: u64,
}

impl FakeProc {
    /// A service without mappings and memory.
    pub(super) fn new() -> Self {
        let proc = Self { directory: tempfile::tempdir().unwrap(), stat: Mutex::default() };
        fs::create_dir(proc.path()).unwrap();
        proc.write("pagemap", "");
        proc.write("maps", "");
        proc.replace_executable();
        proc.status(&[]);
        proc.stat(|stat| stat.startstack = 0x7fff_0000);
        proc
    }

    /// The service's entry.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join(PID.to_string())
    }

    pub(super) fn service(&self) -> ServiceProcess {
        ServiceProcess::open(self.path()).unwrap()
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap()
    }

    /// Changes `/proc/PID/stat`.
    pub(super) fn stat<R>(&self, change: impl FnOnce(&mut FakeStat) -> R) {
        let mut stat = self.stat.lock().unwrap();
        change(&mut stat);
        write_stat(&self.path(), "service", &stat);
    }

    /// Writes `/proc/PID/status` with these sizes in KiB.
    pub(super) fn status(&self, sizes: &[(&str, u64)]) {
        self.write("status", &status(1, sizes));
    }

    /// Gives another process this status.
    pub(super) fn status_of(&self, pid: i32, threads: u32, sizes: &[(&str, u64)]) {
        fs::write(self.entry(pid).join("status"), status(threads, sizes)).unwrap();
    }

    /// Makes a process have as many open files.
    pub(super) fn open_files(&self, pid: i32, count: usize) {
        let open = self.entry(pid).join("fd");
        let _ = fs::remove_dir_all(&open);
        fs::create_dir(&open).unwrap();
        (0..count).for_each(|number| drop(File::create(open.join(number.to_string())).unwrap()));
    }

    /// Gives the service a thread with these children; `None` if the kernel does not tell them.
    pub(super) fn thread(&self, thread: i32, children: Option<&str>) {
        let entry = self.path().join("task").join(thread.to_string());
        fs::create_dir_all(&entry).unwrap();
        children.into_iter().for_each(|ids| fs::write(entry.join("children"), ids).unwrap());
    }

    /// Makes a file of another process unreadable, also for root: a link to itself.
    pub(super) fn unreadable(&self, pid: i32, name: &str) {
        let file = self.entry(pid).join(name);
        let _ = fs::remove_dir_all(&file);
        let _ = fs::remove_file(&file);
        symlink(&file, &file).unwrap();
    }

    fn entry(&self, pid: i32) -> PathBuf {
        self.directory.path().join(pid.to_string())
    }

    /// Makes the service run another file.
    pub(super) fn replace_executable(&self) {
        let link = self.path().join("exe");
        let number = fs::read_dir(self.directory.path()).unwrap().count();
        let program = self.directory.path().join(format!("program-{number}"));
        File::create(&program).unwrap();
        let _ = fs::remove_file(&link);
        symlink(program, link).unwrap();
    }

    /// Makes the pages at these addresses resident, and no others below 2 GiB.
    pub(super) fn touch(&self, page_size: u64, addresses: &[u64]) {
        let page_map = File::options().write(true).open(self.path().join("pagemap")).unwrap();
        page_map.set_len(0).unwrap();
        page_map.set_len((2 << 30) / page_size * 8).unwrap();
        for address in addresses {
            page_map.write_all_at(&[0x80], address / page_size * 8 + 7).unwrap();
        }
    }

    /// Adds another process with this id and name.
    pub(super) fn other(&self, pid: i32, name: &str) {
        self.other_since(pid, name, 0);
    }

    /// The same with when it started, clock ticks since boot.
    pub(super) fn other_since(&self, pid: i32, name: &str, starttime: u64) {
        let entry = self.entry(pid);
        fs::create_dir(&entry).unwrap();
        write_stat(&entry, name, &FakeStat { starttime, ..FakeStat::default() });
    }

    /// Ends another process.
    pub(super) fn end_other(&self, pid: i32) {
        fs::remove_dir_all(self.entry(pid)).unwrap();
    }

    /// Ends the process.
    pub(super) fn end(&self) {
        fs::remove_dir_all(self.path()).unwrap();
    }
}

/// The text of /proc/PID/status with these sizes, KiB.
fn status(threads: u32, sizes: &[(&str, u64)]) -> String {
    let head = "Name:\tservice\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t4242\nNgid:\t0\nPid:\t4242\nPPid:\t1\n\
        TracerPid:\t0\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t64\nGroups:\t0 \n";
    let tail =
        "SigQ:\t0/1\nSigPnd:\t0\nShdPnd:\t0\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\t0\nCapInh:\t0\nCapPrm:\t0\nCapEff:\t0\n";
    let sizes: String = sizes.iter().map(|(name, kibibytes)| format!("{name}:\t{kibibytes} kB\n")).collect();
    format!("{head}{sizes}Threads:\t{threads}\n{tail}")
}

fn write_stat(entry: &Path, name: &str, stat: &FakeStat) {
    let FakeStat { minflt, cminflt, majflt, starttime, startstack } = stat;
    let zeros = |count: usize| vec!["0"; count].join(" ");
    // The zeros are the fields from `ppid` to `flags`, from `cmajflt` to `itrealvalue`, from `vsize` to `endcode`, and from
    // `kstkesp` to `exit_code` (proc_pid_stat(5)).
    let faults = format!("{minflt} {cminflt} {majflt}");
    let [before, between] = [zeros(9), zeros(5)];
    let times = format!("{before} {starttime} {between}");
    let fields = format!("{PID} ({name}) S {} {faults} {times} {startstack} {}\n", zeros(6), zeros(24));
    fs::write(entry.join("stat"), fields).unwrap();
}

/// BPF programs that attach nothing. Clones share their state.
#[derive(Clone, Default)]
pub(super) struct FakePrograms(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    records: Vec<Record>,
    faults: Vec<Fault>,
    attached: Vec<&'static str>,
    refused: Vec<&'static str>,
    lost: Option<Result<Vec<u64>, String>>,
    counts: Counts,
    step: Counts,
    left_out: Vec<Vec<(u64, u64)>>,
    captures: u64,
    drained: usize,
}

/// Probes of these programs.
struct FakeLinks(FakePrograms, Vec<&'static str>);

impl Drop for FakeLinks {
    fn drop(&mut self) {
        let attached = &mut self.0.state().attached;
        for program in &self.1 {
            let place = attached.iter().position(|other| other == program);
            attached.remove(place.unwrap());
        }
    }
}

impl FakePrograms {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Refuses this program, or `captures`, from now on.
    pub(super) fn refuse(&self, what: &'static str) {
        self.state().refused.push(what);
    }

    /// Adds a record to the next drain.
    pub(super) fn push(&self, record: Record) {
        self.state().records.push(record);
    }

    /// The next drain returns this touch.
    pub(super) fn touch(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    pub(super) fn attached(&self) -> Vec<&'static str> {
        self.state().attached.clone()
    }

    /// Waits until every probe is detached. Other threads may detach them.
    pub(super) fn wait_until_detached(&self) {
        let start = Instant::now();
        while !self.attached().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(60), "still attached: {:?}", self.attached());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn set_lost(&self, lost: Result<Vec<u64>, String>) {
        self.state().lost = Some(lost);
    }

    /// Makes the counts grow by `step` at each reading.
    pub(super) fn count_each_time(&self, step: Counts) {
        self.state().step = step;
    }

    /// The ranges of each call that leaves ranges out, with start and end.
    pub(super) fn left_out(&self) -> Vec<Vec<(u64, u64)>> {
        self.state().left_out.clone()
    }

    pub(super) fn captures(&self) -> u64 {
        self.state().captures
    }

    /// The number of drains.
    pub(super) fn drained(&self) -> usize {
        self.state().drained
    }

    fn allows(&self, what: &str) -> Result<(), ProgramError> {
        if self.state().refused.contains(&what) {
            return Err(ProgramError::refused(format!("`{what}`"), "the fake refuses it"));
        }
        Ok(())
    }
}

impl Programs for FakePrograms {
    fn attach(&mut self, probes: &[Probe]) -> Result<Links, ProgramError> {
        let programs: Vec<_> = probes.iter().map(|probe| probe.program).collect();
        programs.iter().try_for_each(|program| self.allows(program))?;
        self.state().attached.extend(&programs);
        Ok(Links::new(FakeLinks(self.clone(), programs)))
    }

    fn attach_first_touch(&mut self, _name: &str) -> Result<(), ProgramError> {
        self.allows("first_touch")?;
        self.state().attached.push("first_touch");
        Ok(())
    }

    fn drain(&mut self, each: &mut dyn FnMut(Record)) {
        let records = std::mem::take(&mut self.state().records);
        self.state().drained += 1;
        records.into_iter().for_each(each);
    }

    fn drain_faults(&mut self, each: &mut dyn FnMut(&Fault)) {
        let faults = std::mem::take(&mut self.state().faults);
        faults.iter().for_each(each);
    }

    fn allow_captures(&mut self, captures: u64) -> Result<(), ProgramError> {
        self.allows("captures")?;
        self.state().captures = captures;
        Ok(())
    }

    fn leave_out(&mut self, ranges: &[Range<u64>]) -> Result<(), ProgramError> {
        let ranges = ranges.iter().map(|range| (range.start, range.end));
        self.state().left_out.push(ranges.collect());
        Ok(())
    }

    fn name_thread(&mut self, _thread: u32, _m: u64) -> Result<(), ProgramError> {
        Ok(())
    }

    fn lost(&self) -> Result<Vec<u64>, ProgramError> {
        let lost = self.state().lost.clone().unwrap_or_else(|| Ok(vec![0; KINDS as usize]));
        lost.map_err(|reason| ProgramError::unexpected("a count cannot be read", reason))
    }

    fn counts(&self) -> Result<Counts, ProgramError> {
        let mut state = self.state();
        let step = state.step;
        state.counts.iter_mut().zip(step).for_each(|(count, step)| *count += step);
        Ok(state.counts)
    }
}

/// A probe of this program.
pub(super) fn probe(program: &'static str) -> Probe {
    let (mnemonic, cost) = ("call".to_owned(), ProbeCost::Emulated);
    Probe { program, place: "a call", address: 0x1000, file_offset: 0x400, mnemonic, cost }
}

/// Every planned probe, attached to these programs: one for each signal.
pub(super) fn attached_to(programs: &FakePrograms) -> Attached {
    let plan = |signal| {
        let program = if signal == ProbedSignal::SpanRefills { "refill" } else { "other" };
        SignalPlan { signal, probes: Ok(vec![probe(program)]) }
    };
    Attached::put_on(Tier::T3, Box::new(programs.clone()), ProbedSignal::ALL.map(plan).into(), "first_touch")
}

/// Every planned probe, attached.
pub(super) fn attached() -> Attached {
    attached_to(&FakePrograms::default())
}

/// A record with these values, from the time of the launch.
pub(super) fn record(kind: u32, [first, second, third]: [u64; 3]) -> Record {
    Record { kind, thread: 1, at_ns: 0, first, second, third }
}

/// A touch with `pc` in every register.
pub(super) fn fault(address: u64, pc: u64) -> Fault {
    Fault {
        at_ns: 0,
        address,
        go_pc: 0,
        go_sp: 0,
        stack_length: 64,
        go_stack_length: 0,
        registers: [pc; REGISTERS],
        stack: [0; STACK],
        go_stack: [0; GO_STACK],
    }
}

/// Counters of a runtime that has done nothing.
pub(super) const fn totals() -> Counters {
    Counters {
        alloc_bytes: 0,
        alloc_objects: 0,
        goroutines: 1,
        pause_total_ns: 0,
        gc_cycles: 0,
        live_heap: 0,
        steady: true,
    }
}

/// A runtime without known facts.
pub(super) fn nothing() -> Runtime {
    let unknown = || "the fake does not know it".to_owned();
    Runtime {
        alloc_counters: Err(unknown()),
        gc_totals: Err(unknown()),
        gc_trigger: Err(unknown()),
        go_memory: Err(unknown()),
        gc_cpu: Err(unknown()),
        goroutine_count: Err(unknown()),
        goroutine_list: Err(unknown()),
        threads: Err(unknown()),
        pauses: Err(unknown()),
        world_starts: Err(unknown()),
        live_heap: Err(unknown()),
        mmaps: Err(unknown()),
        alloc_samples: Err(unknown()),
        heap_profile: Err(unknown()),
        spans: Err(unknown()),
        span_refills: Err(unknown()),
    }
}

/// The functions of a Go program.
pub(super) fn functions() -> Arc<FunctionTable> {
    let directory = tempfile::tempdir().unwrap();
    let bytes = fs::read(unwind::go_executable(Platform::host(), directory.path())).unwrap();
    Arc::new(FunctionTable::read(&object::File::parse(&*bytes).unwrap(), unwind::go_minor()).unwrap())
}
