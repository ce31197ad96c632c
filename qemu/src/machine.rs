//! A guest's machine as QEMU's arguments. Pure.

use std::{ffi::OsString, os::fd::RawFd, path::PathBuf};

use crate::{
    architecture::Architecture,
    channel::{AGENT_PORT, INIT_PORT, LOAD_PORT},
    emulator::{Emulator, SANDBOX},
    image::Image,
};

/// A guest's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its architecture.
    pub architecture: Architecture,
    /// The emulator that runs it.
    pub emulator: Emulator,
    /// Its memory, bytes. QEMU rounds down to whole MiB.
    pub memory: u64,
    /// Its CPUs.
    pub cpus: u32,
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The first file system.
    pub initramfs: PathBuf,
    /// The firmware that starts the kernel, if QEMU cannot do so itself.
    pub firmware: Option<PathBuf>,
}

/// The numbers of the connected sockets that QEMU inherits. They have no names, so nobody else can connect to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sockets {
    pub(crate) agent: RawFd,
    pub(crate) init: RawFd,
    pub(crate) load: RawFd,
    pub(crate) console: RawFd,
    pub(crate) control: RawFd,
}

impl Machine {
    /// A machine that starts from this image, run by an emulator for guests of its architecture.
    pub fn of(image: &Image, emulator: Emulator, memory: u64, cpus: u32) -> Self {
        let Image { architecture, kernel, initramfs, firmware, .. } = image.clone();
        Self { architecture, emulator, memory, cpus, kernel, initramfs, firmware }
    }

    /// The emulator's arguments for a boot, or for a guest that waits for a snapshot. With `is_joined`, QEMU's monitor
    /// shares the console, as with `-serial mon:stdio`: Ctrl-a h lists the keys.
    pub(crate) fn arguments(&self, sockets: &Sockets, incoming: bool, is_joined: bool) -> Vec<OsString> {
        let mut arguments = Arguments(self.emulator.leading.clone());
        if self.emulator.has_sandbox {
            arguments.pair("-sandbox", SANDBOX);
        }
        arguments.0.extend(self.hardware());
        let shared = if is_joined { ",mux=on" } else { "" };
        for (name, socket, more) in [
            ("agent", sockets.agent, ""),
            ("init", sockets.init, ""),
            ("load", sockets.load, ""),
            ("console", sockets.console, shared),
            ("control", sockets.control, ""),
        ] {
            arguments.pair("-chardev", format!("socket,id={name},fd={socket}{more}"));
        }
        if is_joined {
            arguments.pair("-mon", "chardev=console,mode=readline");
        }
        if incoming {
            arguments.pair("-incoming", "defer");
        }
        arguments.0
    }

    /// Everything that a snapshot depends on, except the emulator and the contents of the files.
    pub(crate) fn hardware(&self) -> Vec<OsString> {
        let Self { architecture, emulator: _, memory, cpus, kernel, initramfs, firmware } = self;
        let mut arguments = Arguments(machine(*architecture).iter().map(Into::into).collect());
        arguments.0.extend(
            ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"].map(Into::into),
        );
        // Counts must not depend on the host's virtualisation, so it is never used.
        arguments.pair("-accel", "tcg,thread=multi");
        arguments.pair("-m", format!("{}M", memory >> 20));
        arguments.pair("-smp", cpus.to_string());
        arguments.pair("-kernel", kernel);
        arguments.pair("-initrd", initramfs);
        if let Some(firmware) = firmware {
            arguments.pair("-bios", firmware);
        }
        arguments.pair("-append", command_line(*architecture));
        arguments.pair("-serial", "chardev:console");
        arguments.pair("-mon", "chardev=control,mode=control");
        arguments.pair("-device", "virtio-rng-pci");
        arguments.pair("-device", "virtio-serial-pci");
        for (chardev, name) in [("agent", AGENT_PORT), ("init", INIT_PORT), ("load", LOAD_PORT)] {
            arguments.pair("-device", format!("virtserialport,chardev={chardev},name={name}"));
        }
        arguments.0
    }
}

/// The machine and the devices that it needs in addition to `-nodefaults`.
const fn machine(architecture: Architecture) -> &'static [&'static str] {
    match architecture {
        Architecture::Amd64 => &["-machine", "q35", "-cpu", "max"],
        // The architected algorithm of pointer authentication takes most of the time under TCG.
        Architecture::Arm64 => &["-machine", "virt", "-cpu", "max,pauth-impdef=on"],
        Architecture::Loong64 => &["-machine", "virt", "-cpu", "max"],
    }
}

/// The kernel's name for the first serial port.
const fn console(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Arm64 => "ttyAMA0",
        Architecture::Amd64 | Architecture::Loong64 => "ttyS0",
    }
}

/// The kernel's command line. The kernel panics without waiting, so that a panic ends QEMU. It prints messages from
/// warnings on.
fn command_line(architecture: Architecture) -> String {
    format!("console={} loglevel=5 panic=-1 oops=panic rdinit=/init", console(architecture))
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn pair(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.extend([name.into(), value.into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::tests::emulator;

    const SOCKETS: Sockets = Sockets { agent: 10, init: 11, load: 12, console: 13, control: 14 };

    fn machine(architecture: Architecture) -> Machine {
        Machine {
            architecture,
            emulator: emulator("10.0.13", ""),
            memory: 1 << 30,
            cpus: 2,
            kernel: "/k".into(),
            initramfs: "/i".into(),
            firmware: (architecture == Architecture::Loong64).then(|| "/f".into()),
        }
    }

    fn text(arguments: &[OsString]) -> String {
        arguments.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_machine_is_what_it_is() {
        let all = Architecture::ALL.map(|architecture| text(&machine(architecture).arguments(&SOCKETS, false, false)));
        insta::assert_snapshot!(all.join("\n"));
    }

    #[test]
    fn what_an_emulator_wants_comes_before_the_machine() {
        for (architecture, incoming) in Architecture::ALL.into_iter().zip([false, true, true]) {
            let mut machine = machine(architecture);
            let plain = machine.arguments(&SOCKETS, incoming, false);
            machine.emulator.leading = ["--library-path", "/lib", "/bin/qemu"].map(Into::into).to_vec();
            let all = machine.arguments(&SOCKETS, incoming, false);
            assert_eq!(text(&all), format!("--library-path /lib /bin/qemu {}", text(&plain)));
        }
    }

    #[test]
    fn one_that_cannot_filter_system_calls_is_not_asked_to() {
        let mut machine = machine(Architecture::Arm64);
        assert!(text(&machine.arguments(&SOCKETS, false, false)).contains("-sandbox on,"));
        machine.emulator.has_sandbox = false;
        assert!(!text(&machine.arguments(&SOCKETS, false, false)).contains("sandbox"));
    }

    #[test]
    fn one_that_is_resumed_waits() {
        assert!(text(&machine(Architecture::Arm64).arguments(&SOCKETS, true, false)).ends_with("-incoming defer"));
    }

    #[test]
    fn one_that_is_joined_to_a_terminal_shares_its_console_with_the_monitor() {
        let text = text(&machine(Architecture::Arm64).arguments(&SOCKETS, false, true));
        assert!(text.contains("fd=13,mux=on") && text.ends_with("-mon chardev=console,mode=readline"), "{text}");
    }
}
